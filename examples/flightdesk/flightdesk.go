// Package flightdesk is an agent project: a desk for each user that books a flight and keeps an eye on the workflow
// which accompanies the booking.
//
// An agent must never do work that takes long in a turn: it starts workflows for that.
package flightdesk

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/skein-run/skein/examples/contract"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

var email = workflow.Bind[contract.Trip, contract.Report]("EMAIL_WORKFLOW")

// Classes lists the agents of the project.
func Classes() []agent.Class {
	return []agent.Class{agent.Define("FlightDesk", func() *FlightDesk { return &FlightDesk{} }, agent.Uses(email))}
}

// Desk is the state of an agent.
type Desk struct {
	Trip contract.Trip `json:"trip"`
	// Instance is the workflow that accompanies the trip, State what it was doing when it was last looked at.
	Instance string         `json:"instance,omitempty"`
	State    workflow.State `json:"state,omitempty"`
	// Watch is the schedule of the looks, Looks how many there were.
	Watch string `json:"watch,omitempty"`
	Looks int    `json:"looks"`
}

// FlightDesk is the agent.
type FlightDesk struct{ agent.Base[Desk] }

// OnRequest books a flight (POST), confirms it (POST …/confirm) or tells how things are (GET).
func (d *FlightDesk) OnRequest(w http.ResponseWriter, r *http.Request) error {
	switch {
	case r.Method == http.MethodGet:
		return json.NewEncoder(w).Encode(d.State())
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/confirm"):
		return d.confirm(r.Context())
	case r.Method == http.MethodPost:
		return d.book(w, r)
	}
	return &agent.Error{Status: http.StatusMethodNotAllowed, Message: "GET and POST are allowed"}
}

func (d *FlightDesk) book(w http.ResponseWriter, r *http.Request) error {
	trip := contract.Trip{UserID: r.Header.Get("user-id"), Flight: "DL264", Date: "2027-02-23"}
	if trip.UserID == "" {
		return &agent.Error{Status: http.StatusBadRequest, Message: "the header user-id is missing"}
	}
	if err := protocol.CheckInstance(instanceID(trip)); err != nil {
		return &agent.Error{Status: http.StatusBadRequest, Err: err}
	}
	if booked := d.State().Trip.Flight; booked != "" {
		return &agent.Error{Status: http.StatusConflict, Message: "this desk has booked " + booked + " already"}
	}
	task, err := agent.Schedule(r.Context(), agent.After(3*time.Second), d.RunWorkflow, trip)
	if err != nil {
		return err
	}
	if err := d.SetState(r.Context(), Desk{Trip: trip}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return json.NewEncoder(w).Encode(task) // leaves when state and schedule are stored, in one write
}

// instanceID names the workflow after the trip, so that nobody gets two for one.
func instanceID(trip contract.Trip) string { return trip.UserID + "-" + trip.Flight }

// RunWorkflow starts the workflow, and a look at it every two seconds. State, start and schedule are one write.
func (d *FlightDesk) RunWorkflow(ctx context.Context, trip contract.Trip) error {
	instance, err := email.Create(ctx, trip, workflow.ID(instanceID(trip)))
	if err != nil {
		return err // errors.Is(err, workflow.ErrExists) if another desk booked the same
	}
	watch, err := agent.Schedule(ctx, agent.Cron("*/2 * * * * *"), d.CheckStatus, instance.ID())
	if err != nil {
		return err
	}
	return d.SetState(ctx, Desk{Trip: trip, Instance: instance.ID(), State: workflow.Queued, Watch: watch.ID})
}

// CheckStatus looks at the workflow, and no more when it has ended.
func (d *FlightDesk) CheckStatus(ctx context.Context, id string) error {
	instance, err := email.Get(ctx, id)
	if err != nil {
		return err
	}
	status, err := instance.Status(ctx)
	if err != nil {
		return err
	}
	if status.State.Finished() {
		if _, err := agent.CancelSchedule(ctx, d.State().Watch); err != nil {
			return err
		}
	}
	return d.Update(ctx, func(s *Desk) error {
		s.State, s.Looks = status.State, s.Looks+1
		return nil
	})
}

func (d *FlightDesk) confirm(ctx context.Context) error {
	desk := d.State()
	if desk.Instance == "" {
		return &agent.Error{Status: http.StatusConflict, Message: "there is nothing to confirm yet"}
	}
	instance, err := email.Get(ctx, desk.Instance)
	if err != nil {
		return err
	}
	return instance.SendEvent(ctx, "confirmed", contract.Confirmation{By: desk.Trip.UserID})
}
