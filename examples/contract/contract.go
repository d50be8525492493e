// Package contract is what the projects flightdesk and emailworkflows agree on: the values that travel between them as JSON.
//
// It must never import either of them. Projects that share no code declare such types twice.
package contract

// Trip starts the workflow.
type Trip struct {
	UserID string `json:"user_id"`
	Flight string `json:"flight"`
	Date   string `json:"date"`
}

// Confirmation is the payload of the event "confirmed".
type Confirmation struct {
	By string `json:"by"`
}

// Report is what the workflow returns.
type Report struct {
	Mails       int    `json:"mails"`
	ConfirmedBy string `json:"confirmed_by"`
}
