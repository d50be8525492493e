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

// TriggeredInstance is the id of an instance that the schedule of a workflow starts when it is triggered; unique tells one
// from another of the same second.
func TriggeredInstance(schedule string, now time.Time, unique string) string {
	return CronInstance(schedule, now) + "-" + unique
}

// CronCreate is the create of an instance that the schedule of a workflow starts for a planned moment. Input and ID are those of
// CronInput and CronInstance, unless somebody has triggered it.
func (s *Schedule) CronCreate(project string, planned, now time.Time) Create {
	planned = planned.UTC()
	return Create{
		V: Version, Input: CronInput(s.ID, planned), Workflow: s.Workflow, ID: CronInstance(s.ID, planned), Params: s.Payload, Created: now.UTC(),
		Source:   Source{Kind: "cron", Project: project, Class: s.Workflow, Name: s.ID},
		Schedule: &Firing{Cron: s.Cron, Zone: s.Zone, Planned: planned},
	}
}
