// Package policy holds the tests that keep the rules of the house: what a reviewer would have to look for each time.
//
// It must never contain a rule that CONTRIBUTING.md does not name.
package policy
