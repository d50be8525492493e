package protocol_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

func TestWakeAsText(t *testing.T) {
	t.Parallel()
	type holder struct {
		Wake protocol.Wake `json:"wake"`
	}
	tests := []struct {
		name string
		wake protocol.Wake
		want string
	}{
		{"of a stream", protocol.Wake{Stream: "WORKFLOWS_mail", Sequence: 12}, `{"wake":"WORKFLOWS_mail#12"}`},
		{"none", protocol.Wake{}, `{"wake":""}`},
		{"largest", protocol.Wake{Stream: "S", Sequence: 1<<64 - 1}, `{"wake":"S#18446744073709551615"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			raw, err := json.Marshal(holder{tt.wake})
			if string(raw) != tt.want || err != nil {
				t.Fatalf("written %s, %v, want %s", raw, err, tt.want)
			}
			back := holder{protocol.Wake{Stream: "old", Sequence: 1}}
			if err := json.Unmarshal(raw, &back); back.Wake != tt.wake || err != nil {
				t.Fatalf("read %+v, %v, want %+v", back.Wake, err, tt.wake)
			}
		})
	}
}

func TestWakeRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"S", "#1", "S#", "S#x", "S#01", "S#-1", "S#18446744073709551616"} {
		var w protocol.Wake
		if err := w.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %+v", text, w)
		}
	}
}

func TestDurationAsText(t *testing.T) {
	t.Parallel()
	tests := []struct {
		duration time.Duration
		want     string
	}{
		{0, `"0s"`}, {90 * time.Second, `"1m30s"`}, {1500 * time.Microsecond, `"1.5ms"`}, {-time.Hour, `"-1h0m0s"`},
	}
	for _, tt := range tests {
		raw, err := json.Marshal(protocol.Duration(tt.duration))
		if string(raw) != tt.want || err != nil {
			t.Errorf("%s is written %s, %v, want %s", tt.duration, raw, err, tt.want)
		}
		var back protocol.Duration
		if err := json.Unmarshal(raw, &back); time.Duration(back) != tt.duration || err != nil {
			t.Errorf("%s is read as %s, %v", raw, time.Duration(back), err)
		}
	}
	for _, bad := range []string{`"1"`, `"soon"`, `""`, `5`} {
		if err := json.Unmarshal([]byte(bad), new(protocol.Duration)); err == nil {
			t.Errorf("%s is read as a duration", bad)
		}
	}
}

func TestStatesThatAreFinal(t *testing.T) {
	t.Parallel()
	for state, want := range map[protocol.State]bool{
		protocol.StateQueued: false, protocol.StateRunning: false, protocol.StateWaiting: false,
		protocol.StateComplete: true, protocol.StateErrored: true,
	} {
		if state.Finished() != want {
			t.Errorf("%s: finished %v, want %v", state, state.Finished(), want)
		}
	}
}

func TestKeyAsText(t *testing.T) {
	t.Parallel()
	key := protocol.Key{Op: protocol.OpDo, Name: `say "hi"`, Count: 2}
	if got, want := key.String(), `do "say \"hi\"" #2`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWaitsAndStepsShowTheirKeyInline(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(protocol.Wait{Key: protocol.Key{Op: protocol.OpEvent, Name: "n", Count: 1}, Type: "t"})
	if want := `{"op":"event","name":"n","count":1,"type":"t"}`; string(raw) != want || err != nil {
		t.Errorf("got %s, %v, want %s", raw, err, want)
	}
}

func TestWakeErrorNamesTheText(t *testing.T) {
	t.Parallel()
	err := new(protocol.Wake).UnmarshalText([]byte("S#01"))
	if want := `wake "S#01": invalid name: "01" is no number`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if !errors.Is(err, protocol.ErrName) {
		t.Errorf("%v is no ErrName", err)
	}
}
