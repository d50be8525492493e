package runner

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// maxFollow bounds how long an answer waits until something happens.
	maxFollow = 10 * time.Second
	// maxWaiting is how many answers wait at a time; further ones say at once that nothing has happened.
	maxWaiting = 1000
	// maxNotices bounds the notices of one answer, in bytes: one of them has less than half of that.
	maxNotices = 512 << 10
)

// tellMore answers with what happened to an instance after a cursor, or waits until something does.
func (r *Runner) tellMore(ctx context.Context, ask protocol.Ask) protocol.Answer {
	q := *ask.Follow
	instance := protocol.Instance{Project: r.Project, Shard: protocol.Shard(ask.ID, r.Shards), Workflow: ask.Workflow, ID: ask.ID}
	f := r.following.take(followed{instance, q.Incarnation, q.After})
	if f == nil {
		var err error
		if f, err = r.follower(ctx, instance, q.Incarnation, q.After); err != nil {
			return refusal(ask, err)
		}
	}
	patience := min(time.Duration(q.Wait), maxFollow)
	if !r.following.enter() {
		patience = 0
	}
	defer r.following.leave()
	page, err := r.gather(ctx, f, q, patience)
	if err != nil {
		return refusal(ask, err)
	}
	if !page.End {
		r.following.put(followed{instance, page.Incarnation, page.Cursor}, f)
	}
	return protocol.Answer{V: protocol.Version, Notices: &page}
}

// gather collects notices that are wanted, for as long as there are none.
func (r *Runner) gather(ctx context.Context, f *follower, q protocol.Following, patience time.Duration) (protocol.Notices, error) {
	page := protocol.Notices{Runner: r.ID, Incarnation: f.teller.History().Incarnation, Cursor: q.After}
	w, err := r.watch(f.instance)
	if err != nil {
		return page, err
	}
	defer w.close()
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer context.AfterFunc(r.stopping, cancel)()
	for {
		if len(f.untold) == 0 && !f.ended {
			told, err := f.next(ctx)
			if err != nil && len(page.Notices) == 0 {
				return page, err
			}
			if err != nil {
				return page, nil // whoever asks on is told
			}
			f.untold = told
		}
		fill(&page, f, q.Kinds)
		page.End = f.ended && len(f.untold) == 0
		switch {
		case page.End, len(f.untold) > 0, len(page.Notices) > 0 && !f.more:
			return page, nil
		case f.more:
			continue
		}
		if w.wait(waiting) != nil {
			return page, nil
		}
	}
}

// fill moves what is wanted into a page until that is full.
func fill(page *protocol.Notices, f *follower, kinds []protocol.NoticeKind) {
	size := 0
	for _, n := range page.Notices {
		size += weight(n)
	}
	for ; len(f.untold) > 0; f.untold = f.untold[1:] {
		n := f.untold[0]
		if len(kinds) == 0 || slices.Contains(kinds, n.Kind) {
			if size += weight(n); size > maxNotices && len(page.Notices) > 0 {
				return
			}
			page.Notices = append(page.Notices, n)
		}
		page.Cursor = n.Cursor
	}
}

// weight is how many bytes a part of an answer has there. What cannot be encoded weighs as much as can be.
func weight(part any) int {
	body, err := json.Marshal(part)
	if err != nil {
		return maxAnswer
	}
	return len(body) + len(",")
}

// followed names somebody who was told what happened to an instance up to a cursor.
type followed struct {
	instance    protocol.Instance
	incarnation uint64
	after       protocol.Cursor
}

// following keeps followers for a while: whoever asks on need not wait until a long log is read again. The zero value works.
type following struct {
	idle idle[followed, *follower]

	mu      sync.Mutex
	waiting int
}

// maxIdle is how many followers are kept.
const maxIdle = 64

func (f *following) take(by followed) *follower {
	one, _ := f.idle.take(by)
	return one
}

func (f *following) put(by followed, one *follower) { f.idle.put(by, one, maxIdle) }

// enter reports whether another answer may wait. Each enter is followed by leave.
func (f *following) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting++
	return f.waiting <= maxWaiting
}

func (f *following) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting--
}
