// Package doctor finds, from what the streams of a project hold, where nobody will try although somebody should: instances
// that could go on and have no wake, waits that have no timer, and what is left behind by what is gone. It works beside
// runners, hosts and schedulers that work.
//
// What is wrong at one look may only be under way. So whatever looks wrong is read again, from the leaders, until it has
// stood as it is for the Patience of the Options: only then it is a finding. Of some wakes nobody can tell from outside
// whether they are acknowledged: what rests on those alone is undecided, and no finding.
//
// It must never call a finding what it has seen once, never write into a log or a record, and never take away what could
// come alive again: it sends what asks those who own it to look (nudges, controls), and removes by sequence or by
// compare-and-append.
package doctor
