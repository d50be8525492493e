// Package skew goes on with what other versions of Skein have stored: the files in testdata were recorded by the command in record, each
// built with the code of another version, and are named after the days of those.
//
// Recordings must never be edited or removed: what they hold must be gone on with for as long as Skein is.
package skew
