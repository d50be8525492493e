package janitor

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestWorth: a stretch is cleaned if half of it goes for good, and no more than that is.
func TestWorth(t *testing.T) {
	t.Parallel()
	now := time.Now()
	seg := func(size, stays int64, deaths ...death) segment {
		return segment{size: size, stays: stays, deaths: deaths}
	}
	for _, tt := range []struct {
		name     string
		segments []segment
		want     int
	}{
		{"nothing", nil, 0},
		{"all is needed", []segment{seg(100, 100), seg(100, 100)}, 0},
		{"nothing is needed", []segment{seg(100, 0), seg(100, 0)}, 2},
		{"half is needed", []segment{seg(100, 50)}, 1},
		{"more than half is needed", []segment{seg(100, 51)}, 0},
		{"what is old does not hold up what is behind it", []segment{seg(100, 100), seg(100, 30), seg(100, 10)}, 3},
		{"what is needed behind it stays", []segment{seg(100, 0), seg(100, 100), seg(100, 60)}, 1},
		{"it expires later", []segment{seg(100, 0, death{now.Add(time.Hour), 80})}, 0},
		{"it has expired", []segment{seg(100, 0, death{now.Add(-time.Hour), 80})}, 1},
		{"a snapshot would take more", []segment{seg(100, 150), seg(100, 0)}, 0},
	} {
		if got := worth(tt.segments, now, 0.5); got != tt.want {
			t.Errorf("%s: %d are to be cleaned, want %d", tt.name, got, tt.want)
		}
	}
}

// TestWorthInParts: who cleans a few segments at a time cleans what is worth it as a whole, all of it and no more.
func TestWorthInParts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := rand.New(rand.NewPCG(1, 1))
	cut := 0
	for range 500 {
		var all []segment
		for little := r.IntN(100); len(all) < 200; { // of the first little goes, of some of the others most
			size := 3 + r.Int64N(1000)
			stays := r.Int64N(size) * int64(r.IntN(2))
			if len(all) < little {
				stays = size - r.Int64N(size/3)
			}
			all = append(all, segment{size: size, stays: stays})
		}
		atOnce := 1 + r.IntN(64)
		want, got := worth(all, now, 0.5), 0
		if want > atOnce && worth(all[:atOnce], now, 0.5) < atOnce {
			cut++
		}
		for n := worth(all, now, 0.5); n > 0; n = worth(all[got:], now, 0.5) {
			got += min(n, atOnce)
		}
		if got != want {
			t.Fatalf("%d segments are cleaned, %d at a time, as a whole it were %d: %+v", got, atOnce, want, all)
		}
	}
	if cut < 100 {
		t.Errorf("%d times a stretch was cut", cut)
	}
}

// TestWorthBounds plays streams that are cleaned for long: what is stored again, and what is stored in all, stays within
// what the package promises.
func TestWorthBounds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, seed))
		now := time.Unix(0, 0)
		var stream []segment
		var written, again int64
		put := func(size, stays int64, life time.Duration) {
			s := segment{size: size}
			if until := now.Add(life); life > 0 {
				s.add(stays, &until, time.Hour)
			} else {
				s.add(stays, nil, time.Hour)
			}
			stream = append(stream, s)
		}
		for range 1500 {
			now = now.Add(time.Hour)
			// Most expires after days, some after months, a little is needed for ever.
			put(1000, 700, time.Duration(24*(1+r.IntN(10)))*time.Hour)
			put(100, 90, time.Duration(24*(30+r.IntN(60)))*time.Hour)
			if r.IntN(50) == 0 {
				put(20, 20, 0)
			}
			written += 1100
			n := worth(stream, now, 0.5)
			carried := stream[:n]
			stream = stream[n:]
			for _, s := range carried { // what is needed comes after all the rest
				if needed := s.needed(now); needed > 0 {
					c := segment{size: needed, stays: s.stays}
					for _, d := range s.deaths {
						if d.at.After(now) {
							c.deaths = append(c.deaths, d)
						}
					}
					stream, again = append(stream, c), again+needed
				}
			}
			var size, needed int64
			for _, s := range stream {
				size, needed = size+s.size, needed+s.needed(now)
			}
			if size > 2*needed+1100 {
				t.Fatalf("seed %d: the stream takes %d, and %d of it is needed", seed, size, needed)
			}
		}
		if again > written {
			t.Errorf("seed %d: %d was written, and %d again", seed, written, again)
		}
	}
}

// TestSegmentKnowsWhen: what is needed until a moment counts until then, at an hour's exactness, and never less.
func TestSegmentKnowsWhen(t *testing.T) {
	t.Parallel()
	var s segment
	base := time.Unix(0, 0)
	for n := range 240 {
		s.add(1, new(base.Add(time.Duration(n)*time.Minute)), time.Hour)
	}
	s.add(1000, nil, time.Hour)
	if len(s.deaths) > 5 {
		t.Errorf("%d moments are remembered for four hours", len(s.deaths))
	}
	for n := range 300 {
		now := base.Add(time.Duration(n) * time.Minute)
		least, most := int64(max(0, 240-n-1)), int64(min(240, max(0, 300-n)))
		if got := s.needed(now) - 1000; got < least || got > most {
			t.Errorf("after %d minutes %d is needed, want %d to %d", n, got, least, most)
		}
	}
}
