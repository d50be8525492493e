package runner

import (
	"cmp"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// expires is the moment from which an instance that ends now need not be kept any more.
func (r *Runner) expires(create protocol.Create, success bool, end time.Time) *time.Time {
	own, workflow := protocol.Retention{}, r.Retention[create.Workflow]
	if create.Retention != nil {
		own = *create.Retention
	}
	const unset = protocol.Duration(protocol.DefaultRetention)
	kept := cmp.Or(own.Error, workflow.Error, unset)
	if success {
		kept = cmp.Or(own.Success, workflow.Success, unset)
	}
	moment := end.Add(time.Duration(kept)).UTC()
	return &moment
}
