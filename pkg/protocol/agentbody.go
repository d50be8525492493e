package protocol

// BodyPart is a part of the body of an HTTP request that does not travel with it, or says that the body is still coming.
type BodyPart struct {
	// Number counts the parts from 1, the end among them: who misses one has lost the body. Without Data, End and Broken it is
	// that of the last part that was sent, and there is none yet to follow it.
	Number int    `json:"number"`
	Data   []byte `json:"data,omitempty"`
	// End says that this was all. Broken says why there is no more, though it was not.
	End    bool     `json:"end,omitempty"`
	Broken *Failure `json:"broken,omitempty"`
}

// Names of failures of bodies.
const (
	// FailureBodyTooLarge says that a body has more bytes than the setting allows.
	FailureBodyTooLarge = "BodyTooLarge"
	// FailureBodyBroken says that a body did not come to its end.
	FailureBodyBroken = "BodyBroken"
)

// BodySubject takes the parts of bodies for one agent host. It is not HostSubject because their order counts.
func BodySubject(project, host string) string { return "body." + project + "." + host }
