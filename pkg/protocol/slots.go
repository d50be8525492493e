package protocol

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Slots says which instances of a workflow of limited concurrency have a slot. It is a row of SlotsBucket, changed by
// compare-and-set.
type Slots struct {
	V int `json:"v"`
	// ID is chosen once per write: whoever does not know whether it was stored compares it.
	ID       string       `json:"id"`
	Workflow string       `json:"workflow"`
	Holders  []SlotHolder `json:"holders"`
}

// SlotHolder is an instance that has a slot.
type SlotHolder struct {
	Shard       int    `json:"shard,omitempty"`
	ID          string `json:"id"`
	Incarnation uint64 `json:"incarnation"`
	// Log is the tail of the instance's log when it got the slot: a park after it gives the slot back.
	Log   uint64    `json:"log"`
	Since time.Time `json:"since"`
}

// SlotWait is an instance that waits for a slot: a key of its own in SlotsBucket.
type SlotWait struct {
	V           int    `json:"v"`
	Shard       int    `json:"shard,omitempty"`
	ID          string `json:"id"`
	Incarnation uint64 `json:"incarnation"`
	// Park is the log sequence at which the instance began to wait.
	Park uint64 `json:"park"`
	// Created is when it was created, as its creator said: incarnations of different shards tell nothing of each other. Older versions
	// leave it out.
	Created time.Time `json:"created,omitzero"`
}

// SlotHoldersKey is the key of a workflow's row in SlotsBucket.
func SlotHoldersKey(workflow string) string { return "holders." + workflow }

// SlotWaitKey is the key of an instance that waits for a slot. SlotWaitKeys matches those of a workflow.
func SlotWaitKey(i Instance) string {
	return "waiting." + i.Workflow + "." + strconv.Itoa(i.Shard) + "." + i.ID
}

// SlotWaitKeys matches the keys of all instances of a workflow that wait for a slot.
func SlotWaitKeys(workflow string) string { return "waiting." + workflow + ".>" }

// ParseSlotWaitKey is the inverse of SlotWaitKey in a project.
func ParseSlotWaitKey(project, key string) (Instance, error) {
	t := strings.Split(key, ".")
	if len(t) != 4 || t[0] != "waiting" {
		return Instance{}, fmt.Errorf("%w: key %q: want waiting.workflow.shard.id", ErrName, key)
	}
	i, err := parseInstance(project, t[2], t[1], t[3])
	if err != nil {
		return Instance{}, fmt.Errorf("key %q: %w", key, err)
	}
	return i, nil
}
