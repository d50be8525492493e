package protocol

import "encoding/json"

// ApprovalType is the type of the events that are approvals, unless another was agreed on.
const ApprovalType = "approval"

// FailureRejected ends what waited for an approval and was told no.
const FailureRejected = "RejectedError"

// Approval is the payload of an event by which somebody says yes or no.
type Approval struct {
	Approved bool   `json:"approved"`
	Reason   string `json:"reason,omitempty"`
	// Metadata is what comes with a yes.
	Metadata json.RawMessage `json:"metadata,omitempty"`
}
