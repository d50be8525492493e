package history

import "testing"

// TestQuietRun: what a run without faults leaves behind is judged clean and has something of everything, and whatever is planted into it is seen.
func TestQuietRun(t *testing.T) {
	rec, found := record(t)
	t.Logf("%v", found.Counts)
	for i, v := range found.Violations {
		if i < 20 {
			t.Errorf("%v", v)
			for _, line := range v.Around {
				t.Log("    ", line)
			}
		}
	}
	if !t.Failed() {
		sees(t, rec)
	}
}
