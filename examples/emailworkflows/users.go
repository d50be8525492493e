package emailworkflows

import (
	"context"
	"fmt"

	"github.com/skein-run/skein/pkg/workflow"
)

// User is who gets mail.
type User struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// Directory finds a user.
type Directory func(ctx context.Context, id string) (User, error)

// FlakyDirectory stands for a directory that is often busy: it answers the third attempt of a step. It goes by the
// number of the attempt, which is in the log, because a counter in memory would begin anew on the next runner.
func FlakyDirectory(ctx context.Context, id string) (User, error) {
	if attempt := workflow.Step(ctx).Number; attempt < 3 {
		return User{}, fmt.Errorf("look up user %q: the directory is busy", id)
	}
	return User{Name: id, Address: id + "@example.com"}, nil
}
