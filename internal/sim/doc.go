// Package sim simulates the instance protocol: the real package engine decides and the real package journal reads and
// appends, against streams that are simulated with the semantics that Skein rests on, and a world that does its worst:
// it loses, delays and repeats answers and appends, lets replicas lag, delivers wakes again while their holders live,
// kills and freezes runners, sets clocks wrong, and steers, deletes and cleans away instances meanwhile. A seed decides
// all of that, and the same seed always plays the same game. Everything is in tests; there is nothing to import.
//
// It must never decide on a time, an order or a random number that does not come from the seed, and never mend what the
// engine says.
//
// What a runner does between reading and appending cannot be played by a seed: it runs in goroutines. The runner here
// does the same in one, in the same order:
//
//   - decideTogether, act, decideFromLeader, refused, activate, claim, park, projectEnd, erase, remains, obey, carryOut,
//     snapshot and yielded of internal/runner, with the reads of its Reader (look, load, inputs, controls);
//   - the order of internal/execution: what is hard is stored before a body begins, inputs are read before a wait for one
//     times out and when it begins, a park or an end goes with all that is not stored, an append refused by a snapshot is
//     repeated behind it, a goroutine that calls in after a park goes on under a nudge, a release is stored at last;
//   - create, event and control as pkg/workflow sends them, and log cleaning by the rule P8.
//
// It has no calls of other workflows, no slots, no values in objects and no compensations. The log is cleaned by the real
// package janitor. The objects of snapshots are not: what collects them here, by the same rule, is the simulation's own.
package sim
