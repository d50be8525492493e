// Package auth makes what NATS servers and the processes of Skein need to trust each other: users with the least rights
// that their roles need, an authority with certificates, and the files that nats-server loads. It exists so that a cluster
// is secure without anybody writing lists of subjects by hand.
//
// It must never keep the seed of a user anywhere but in that user's own file, and never write over what it has not made.
package auth
