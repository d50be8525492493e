package protocol

import "strings"

// StreamKind says what a stream of Skein is for.
type StreamKind string

// Kinds of streams. The last three are shared by all projects.
const (
	KindWorkflows   StreamKind = "workflows"
	KindTimers      StreamKind = "timers"
	KindInbox       StreamKind = "inbox"
	KindAgents      StreamKind = "agents"
	KindSchedules   StreamKind = "schedules"
	KindHosts       StreamKind = "hosts"
	KindSlots       StreamKind = "slots"
	KindConnections StreamKind = "connections"
	KindDead        StreamKind = "dead letters"
	KindObjects     StreamKind = "objects"
	KindPost        StreamKind = "post"
	KindClock       StreamKind = "clock"
	KindProjects    StreamKind = "projects"
	KindJanitors    StreamKind = "janitors"
)

// MetadataBackup, among the metadata of a stream, is the id of the backup that it was restored from. MetadataRestore is there
// beside it until all streams of the backup are restored and looked at: nobody may work with the stream before.
const (
	MetadataBackup  = "skein.backup"
	MetadataRestore = "skein.restore"
)

// SubjectStreams asks JetStream which streams there are.
const SubjectStreams = "$JS.API.STREAM.LIST"

// RestoreSubject asks a server to make a stream of what is sent to it.
func RestoreSubject(stream string) string { return "$JS.API.STREAM.RESTORE." + stream }

// ParseStream tells what a stream is for, and of which project; of one that all projects share the project is empty. ok is false
// if it is none of Skein. A project may have several streams of one kind, as its instances are spread over shards.
func ParseStream(name string) (kind StreamKind, project string, ok bool) {
	switch name {
	case StreamClock:
		return KindClock, "", true
	case KVStream(BucketProjects):
		return KindProjects, "", true
	case KVStream(BucketJanitors):
		return KindJanitors, "", true
	}
	for _, k := range []struct {
		kind   StreamKind
		prefix string
	}{
		{KindWorkflows, WorkflowsStream("", 0)},
		{KindTimers, TimersStream("")},
		{KindInbox, InboxStream("")},
		{KindAgents, KVStream(AgentsBucket(""))},
		{KindSchedules, KVStream(SchedulesBucket(""))},
		{KindHosts, KVStream(HostsBucket(""))},
		{KindSlots, KVStream(SlotsBucket(""))},
		{KindConnections, KVStream(ConnectionsBucket(""))},
		{KindDead, KVStream(DeadBucket(""))},
		{KindObjects, ObjectsStream("")},
		{KindPost, PostStream("")},
	} {
		rest, found := strings.CutPrefix(name, k.prefix)
		if !found {
			continue
		}
		project, _, _ = strings.Cut(rest, "=") // what follows names a shard
		if CheckProject(project) == nil {
			return k.kind, project, true
		}
	}
	return "", "", false
}
