package protocol

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"
)

// ClassCron stands for a class in the keys and rows of the schedules of workflows; their Name is the workflow. No class of
// agents can have this name.
const ClassCron = "=workflow"

// CronKeys matches the keys of the schedules of all workflows of a project.
const CronKeys = ClassCron + ".>"

// MaxSchedules is how many schedules a workflow can have.
const MaxSchedules = 100

// Firing says which schedule of a workflow started an instance, and for which moment. The create tells when that was.
type Firing struct {
	Cron    string    `json:"cron"`
	Zone    string    `json:"zone,omitempty"`
	Planned time.Time `json:"planned"`
}

// CronID is the id of the schedule of a workflow: it is known by its line and zone.
func CronID(line, zone string) string {
	sum := sha256.Sum256([]byte(line + "\x00" + zone))
	return "cron-" + hex.EncodeToString(sum[:6])
}

// CronInstance is the id of the instance that the schedule of a workflow starts for a planned moment.
func CronInstance(schedule string, planned time.Time) string {
	return schedule + "-" + planned.UTC().Format("20060102T150405Z")
}

// CronInput is the Input of the create of that instance: whoever repeats the create finds that it was made.
func CronInput(schedule string, planned time.Time) string {
	return "cron/" + schedule + "/" + strconv.FormatInt(planned.UnixMilli(), 10)
}
