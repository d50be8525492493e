package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ear hears what comes over one connection to a crowd, and decides by its numbers whether that is all, once and in order.
type ear struct {
	// welcomed is set by the first message; from the tick that it names on, none may be missing.
	welcomed bool
	tick     int // that came last
	echo     int // the last frame of the client that is known to be applied
	sent     int // how many the client has sent
	state    int // the tick of the state that came last
}

// hear takes a frame and returns what is wrong with it.
func (e *ear) hear(frame string) error {
	word, rest, _ := strings.Cut(frame, " ")
	n, err := strconv.Atoi(rest)
	switch {
	case strings.HasPrefix(frame, "{"):
		return e.hearJSON(frame)
	case err != nil:
		return fmt.Errorf("frame %q is none of these", frame)
	case word == "hello":
		if e.welcomed {
			return fmt.Errorf("frame %q, but there was a hello", frame)
		}
		e.welcomed, e.tick = true, n
	case !e.welcomed:
		return fmt.Errorf("frame %q before the hello", frame)
	case word == "tick":
		if n != e.tick+1 {
			return fmt.Errorf("frame %q after tick %d", frame, e.tick)
		}
		e.tick = n
	case word == "echo":
		return e.hearEcho(n)
	default:
		return fmt.Errorf("frame %q is none of these", frame)
	}
	return nil
}

func (e *ear) hearEcho(n int) error {
	if n != e.echo+1 || n > e.sent {
		return fmt.Errorf("frame %d is applied after %d, of %d that were sent", n, e.echo, e.sent)
	}
	e.echo = n
	return nil
}

func (e *ear) hearJSON(frame string) error {
	var f struct {
		Type    string `json:"type"`
		Success bool   `json:"success"`
		Result  int    `json:"result"`
		State   struct {
			Ticks int `json:"ticks"`
		} `json:"state"`
	}
	if err := json.Unmarshal([]byte(frame), &f); err != nil {
		return fmt.Errorf("frame %s: %w", frame, err)
	}
	switch {
	case f.Type == "cf_agent_identity" && !e.welcomed:
	case f.Type == "rpc" && f.Success && e.welcomed:
		return e.hearEcho(f.Result)
	case f.Type == "cf_agent_state":
		if f.State.Ticks < e.state || f.State.Ticks < e.tick {
			return fmt.Errorf("state of tick %d after tick %d and the state of %d", f.State.Ticks, e.tick, e.state)
		}
		e.state = f.State.Ticks
	default:
		return fmt.Errorf("frame %s is none of these", frame)
	}
	return nil
}

// attendance is who was there: by place, which is a gateway, or the word for connections whose ids do not tell it.
type attendance struct {
	// opened and live are connections that clients have seen welcomed, and that they have now.
	opened, live map[string]int
	// broken are those that were open when the process of their gateway was killed, drained those that one has closed that was stopped.
	broken, drained map[string]int
}

func newAttendance() attendance {
	return attendance{opened: map[string]int{}, live: map[string]int{}, broken: map[string]int{}, drained: map[string]int{}}
}

// check holds what a crowd has noted against what its clients have seen, and returns what does not fit.
func (a attendance) check(s crowdState) (wrong []string) {
	wrong = slices.Clone(s.Faults)
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	ended := map[string]int{}
	for place, codes := range s.Ended {
		for _, n := range codes {
			ended[place] += n
		}
	}
	places := map[string]int{}
	maps.Copy(places, a.opened)
	maps.Copy(places, s.Begun)
	for _, place := range slices.Sorted(maps.Keys(places)) {
		if s.Begun[place] < a.opened[place] {
			say("%s: %d connections were welcomed, %d OnConnect are stored", place, a.opened[place], s.Begun[place])
		}
		if s.Begun[place]-ended[place] != a.live[place] {
			say("%s: %d OnConnect, %d OnClose, %d are open", place, s.Begun[place], ended[place], a.live[place])
		}
		for code, n := range map[string]int{"1006": a.broken[place], "1001": a.drained[place]} {
			if s.Ended[place][code] < n {
				say("%s: %d connections have ended with %s, OnClose came with that %d times", place, n, code, s.Ended[place][code])
			}
		}
	}
	open, live := 0, 0
	for _, n := range s.Open {
		open += n
	}
	for _, n := range a.live {
		live += n
	}
	if open != live {
		say("%d connections are noted as open, %d are", open, live)
	}
	return wrong
}

// TestEar: the checker hears each frame that is lost, doubled, out of order or made up.
func TestEar(t *testing.T) {
	t.Parallel()
	state := func(n int) string { return fmt.Sprintf(`{"type":"cf_agent_state","state":{"ticks":%d}}`, n) }
	good := []string{"hello 4", "tick 5", "echo 1", "tick 6", `{"type":"rpc","id":"2","success":true,"result":2,"done":true}`, "echo 3", "tick 7", "tick 8", "echo 4", "tick 9"}
	listen := func(frames ...string) error {
		e := ear{sent: 4}
		for _, f := range slices.Concat([]string{`{"type":"cf_agent_identity","name":"0","agent":"crowd"}`, state(4)}, frames) {
			if err := e.hear(f); err != nil {
				return err
			}
		}
		if e.tick != 9 || e.echo != 4 {
			return fmt.Errorf("ends with %+v", e)
		}
		return nil
	}
	if err := listen(good...); err != nil {
		t.Fatal(err)
	}
	row := func(frame string) string { return strings.Replace(frame[:4], `{"ty`, "echo", 1) }
	for i, frame := range good {
		if err := listen(slices.Delete(slices.Clone(good), i, i+1)...); err == nil {
			t.Errorf("nobody has heard that %s was lost", frame)
		}
		for j := i + 1; j <= len(good); j++ {
			if err := listen(slices.Insert(slices.Clone(good), j, frame)...); err == nil {
				t.Errorf("nobody has heard that %s came again before frame %d", frame, j)
			}
			if j == len(good) || i > 0 && row(frame) != row(good[j]) {
				continue
			}
			swapped := slices.Clone(good)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			if err := listen(swapped...); err == nil {
				t.Errorf("nobody has heard that %s and %s have changed their places", frame, good[j])
			}
		}
	}
	if err := listen(append([]string{good[0], state(6)}, good[1:]...)...); err != nil {
		t.Errorf("a state may be newer than what came: %v", err)
	}
	for _, wrong := range []string{
		"echo 5", "tick", "tock 10", "tick 11", state(8), `{"type":"other"}`, `{"type":"cf_agent_identity"}`, "{",
		`{"type":"rpc","id":"5","success":false,"error":"no"}`,
	} {
		if err := listen(append(slices.Clone(good), wrong)...); err == nil {
			t.Errorf("nobody has heard that %s is wrong", wrong)
		}
	}
}

// TestAttendance: the checker sees each connection without an end, or with two.
func TestAttendance(t *testing.T) {
	t.Parallel()
	views := func() (attendance, crowdState) {
		return attendance{opened: map[string]int{"g1": 3, "g2": 2, "any": 4}, live: map[string]int{"g2": 2, "any": 1}, broken: map[string]int{"g1": 2}, drained: map[string]int{"any": 3}},
			crowdState{
				Begun: map[string]int{"g1": 4, "g2": 2, "any": 4},
				Ended: map[string]map[string]int{"g1": {"1006": 3, "1000": 1}, "any": {"1001": 3}},
				Open:  map[string]int{"a": 1, "b": 1, "c": 1},
			}
	}
	if a, s := views(); len(a.check(s)) > 0 {
		t.Fatalf("all is well, but %q", a.check(s))
	}
	for name, spoil := range map[string]func(a attendance, s *crowdState){
		"an OnClose is missing":           func(_ attendance, s *crowdState) { s.Ended["g1"]["1000"]-- },
		"an OnClose came twice":           func(_ attendance, s *crowdState) { s.Ended["any"]["1001"]++ },
		"an OnClose without OnConnect":    func(_ attendance, s *crowdState) { s.Ended["g3"] = map[string]int{"1006": 1}; s.Begun["g3"] = 0 },
		"an OnConnect is missing":         func(_ attendance, s *crowdState) { s.Begun["g2"]-- },
		"one is open that nobody noted":   func(a attendance, _ *crowdState) { a.live["g2"]++; a.opened["g2"]++ },
		"the end of a kill is another":    func(_ attendance, s *crowdState) { s.Ended["g1"] = map[string]int{"1006": 1, "1000": 3} },
		"the end of a stop is another":    func(_ attendance, s *crowdState) { s.Ended["any"] = map[string]int{"1001": 2, "1006": 1} },
		"one is noted as open for ever":   func(_ attendance, s *crowdState) { s.Open["d"] = 1 },
		"the crowd has seen a fault":      func(_ attendance, s *crowdState) { s.Faults = []string{"frame 3 after 1"} },
		"more were welcomed than noted":   func(a attendance, _ *crowdState) { a.opened["any"] = 5 },
		"one lives that was never opened": func(a attendance, _ *crowdState) { a.live["g1"]++ },
	} {
		a, s := views()
		spoil(a, &s)
		if len(a.check(s)) == 0 {
			t.Errorf("nobody has seen: %s", name)
		}
	}
}
