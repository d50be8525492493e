package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"
)

// client is a client with a socket.
type client struct {
	ws    *websocket.Conn
	calls int
}

// connect opens a socket and returns when its agent has said who it is.
func connect(ctx context.Context, addr, path string) (*client, error) {
	ws, _, err := websocket.Dial(ctx, "ws://"+addr+path, nil)
	if err != nil {
		return nil, err
	}
	c := &client{ws: ws}
	if _, err := c.find(ctx, []byte(`"type":"cf_agent_identity"`)); err != nil {
		_ = ws.CloseNow()
		return nil, fmt.Errorf("a socket to %s: %w", path, err)
	}
	return c, nil
}

// comeBack connects as soon as one of the hosts takes the client.
func comeBack(ctx context.Context, path string, addrs ...string) (c *client, err error) {
	for i := 0; ; i++ {
		c, err = connect(ctx, addrs[i%len(addrs)], path)
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// find reads until a frame has something in it.
func (c *client) find(ctx context.Context, what []byte) ([]byte, error) {
	for {
		_, data, err := c.ws.Read(ctx)
		if err != nil || bytes.Contains(data, what) {
			return data, err
		}
	}
}

// call calls a method and waits for the answer.
func (c *client) call(ctx context.Context, method, args string) error {
	c.calls++
	frame := fmt.Sprintf(`{"type":"rpc","id":"%d","method":%q,"args":%s}`, c.calls, method, args)
	if err := c.ws.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		return err
	}
	answer, err := c.find(ctx, fmt.Appendf(nil, `"type":"rpc","id":"%d"`, c.calls))
	if err == nil && !bytes.Contains(answer, []byte(`"success":true`)) {
		err = fmt.Errorf("call of %s is answered with %s", method, answer)
	}
	return err
}

// crowd is clients who listen.
type crowd struct {
	clients []*client
	took    []time.Duration // to connect
	heard   sync.WaitGroup  // counts those who have not heard the mark yet
	running sync.WaitGroup
	ended   []error // why each ended; read it when none is left
}

// atOnce is how many clients connect at a time where that is not what is measured.
const atOnce = 64

// gather connects n clients to agents, atATime at a time.
func gather(ctx context.Context, addr string, n, atATime int, path func(i int) string) (*crowd, error) {
	c := &crowd{clients: make([]*client, n), took: make([]time.Duration, n), ended: make([]error, n)}
	var group errgroup.Group
	group.SetLimit(atATime)
	for i := range n {
		group.Go(func() (err error) {
			began := time.Now()
			c.clients[i], err = connect(ctx, addr, path(i))
			c.took[i] = time.Since(began)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return c, errors.Join(err, c.leave())
	}
	return c, nil
}

// mark is what clients are to hear.
const mark = "hear, hear"

// listen has every client read until its socket ends.
func (c *crowd) listen(ctx context.Context) {
	for i, one := range c.clients {
		c.running.Go(func() {
			for {
				if _, c.ended[i] = one.find(ctx, []byte(mark)); c.ended[i] != nil {
					return
				}
				c.heard.Done()
			}
		})
	}
}

// leave closes all sockets that listen.
func (c *crowd) leave() error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, one := range c.clients {
		if one != nil {
			group.Go(func() error { return one.ws.Close(websocket.StatusNormalClosure, "") })
		}
	}
	err := group.Wait()
	c.running.Wait()
	return err
}
