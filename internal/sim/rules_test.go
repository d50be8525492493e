package sim

import (
	"time"

	"github.com/skein-run/skein/internal/engine"
)

// rules are what everybody keeps to. Each is a switch, so that a test can take it out and see that it is missed.
type rules struct {
	CompareAndAppend  bool
	ReadReaches       bool
	TailFirst         bool
	LookAfterRefusal  bool
	StoreBeforeBody   bool
	StoreBeforeAck    bool
	ArmBeforeAck      bool
	ProjectBeforeAck  bool
	LookAfterPark     bool
	OnlyOlderInputs   bool
	ReadBeforeTimeout bool
	TimerPerPark      bool
	NudgeToRevive     bool
	ClaimToGoOn       bool
	GoOnAtTail        bool
	ReleaseBeforeNak  bool
	ObeyAll           bool
	MarkControls      bool
	Tombstone         bool
	BoundPurge        bool
	EraseCarried      bool
	FinishErase       bool
	CarryEvents       bool
	CarryCreate       bool
	VerifyCarried     bool
	AckFloor          bool
	AgedHorizon       bool
	GoOnExactly       bool
	KeepPerEpoch      bool
	RepetitionsVoid   bool
	CountLostRuns     bool
	HardStart         bool
	KeepWinner        bool
	KeepFailed        bool
	Withhold          bool

	decide func(s engine.Situation, w engine.Wake, older engine.Older, now time.Time) engine.Action
}

// sound are the rules as they are.
func sound() rules {
	return rules{
		CompareAndAppend: true, ReadReaches: true, TailFirst: true, LookAfterRefusal: true, StoreBeforeBody: true,
		StoreBeforeAck: true, ArmBeforeAck: true, ProjectBeforeAck: true, LookAfterPark: true, OnlyOlderInputs: true,
		ReadBeforeTimeout: true, TimerPerPark: true, NudgeToRevive: true, ClaimToGoOn: true, GoOnAtTail: true, ReleaseBeforeNak: true, ObeyAll: true,
		MarkControls: true, Tombstone: true, BoundPurge: true, EraseCarried: true, FinishErase: true, CarryEvents: true,
		CarryCreate: true, VerifyCarried: true, AckFloor: true, AgedHorizon: true, GoOnExactly: true, KeepPerEpoch: true,
		RepetitionsVoid: true, CountLostRuns: true, HardStart: true, KeepWinner: true, KeepFailed: true, Withhold: true,
		decide: engine.Decide,
	}
}
