// Package scheduler makes the schedules of agents and workflows come due. It follows the schedule rows of all projects,
// arms the next moment of each as a message schedule on the CLOCK stream, and when that fires puts mail into the agent's
// inbox, or creates the instance of the workflow, and arms the next one.
//
// Any number of schedulers work side by side; none leads and none remembers anything. What they share is on the
// server: a message is only a reason to look, the newest row and what is armed are read from the leader, and the clock
// is changed by compare-and-append. While no scheduler runs, what is armed still fires and waits; rows wait too.
//
// Order of a firing: mail, then the next moment (or, for a schedule that fires once, the deletion of its row), then
// the ack. A crash in between brings the firing again, and with it mail of the same source and number, which the agent
// drops. Moments that passed while nobody could serve them collapse into the one that fires: an agent gets one mail
// for all of them, with the oldest moment, or as many as the schedule wants to catch up, the oldest first.
//
// Of a workflow, the instance comes in place of the mail: its id follows from schedule and planned moment, so that a firing
// that comes again finds it. The row of such a schedule is the project's, and stays: a runner changes it in place, and then
// the schedule goes on where it stood, also when it is over.
//
// What a schedule has done so far (firings, missed moments) travels in the message that is armed and fires. So it is
// counted on by whoever arms the next moment, once, and gone with the schedule.
//
// It must never act on what a message says without having read the row, never let an older row replace what a newer
// one armed, and never drop a firing because something failed.
package scheduler
