package protocol

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ObjectOwner is whom a value in an object store belongs to: one instance, from its create to its end. Another that
// has the same id later is another owner. The states of agents have owners of their own: see StateOwner.
type ObjectOwner struct {
	Project  string
	Workflow string
	ID       string
	// Token stands for the id of the create: it is part of names and subjects.
	Token string
}

// maxOwnerToken bounds the part of a name that stands for the id of a create. Ids that we make are 36 bytes long.
const maxOwnerToken = 64

// OwnerOf is the owner of what belongs to an instance that was created with an input of this id.
func OwnerOf(i Instance, input string) ObjectOwner {
	token := Escape(input)
	if len(token) > maxOwnerToken { // made by hand: a subject has no room for it
		token = digest(input)
	}
	return ObjectOwner{Project: i.Project, Workflow: i.Workflow, ID: i.ID, Token: token}
}

// ObjectName is the name of the value with a digest (SHA-256, in hex).
func (o ObjectOwner) ObjectName(digest string) string {
	return o.Workflow + "/" + o.ID + "/" + o.Token + "/" + digest
}

// Owns reports whether an object in the store of a project belongs to the owner.
func (o ObjectOwner) Owns(project string, object Object) bool {
	owner, _, err := ParseObjectName(project, object.Name)
	return err == nil && owner == o
}

// ParseObjectName is the inverse of ObjectName in the object store of a project. It refuses the states of agents.
func ParseObjectName(project, name string) (o ObjectOwner, digest string, err error) {
	t := strings.Split(name, "/")
	if len(t) != 4 {
		return o, "", fmt.Errorf("%w: object %q: want workflow/id/create/digest", ErrName, name)
	}
	if _, err := parseInstance(project, "0", t[0], t[1]); err != nil {
		return o, "", fmt.Errorf("object %q: %w", name, err)
	}
	if _, err := Unescape(t[2]); err != nil || len(t[2]) > maxOwnerToken {
		return o, "", fmt.Errorf("%w: object %q: create %q", ErrName, name, t[2])
	}
	if _, err := ObjectDigest(name); err != nil {
		return o, "", err
	}
	return ObjectOwner{Project: project, Workflow: t[0], ID: t[1], Token: t[2]}, t[3], nil
}

// statePrefix begins what stands, in the owner of an agent's state, in the place of a workflow's name; no such name begins
// with it.
const statePrefix = "="

// StateOwner is the owner of one state of an agent, the put-th that was put under an epoch. No two states share one, so
// that one that no record refers to any more can be taken away without a look at what others put meanwhile.
func StateOwner(a Agent, epoch, put uint64) ObjectOwner {
	return ObjectOwner{
		Project: a.Project, Workflow: statePrefix + a.Class, ID: a.stateID(),
		Token: strconv.FormatUint(epoch, 10) + "-" + strconv.FormatUint(put, 10),
	}
}

// maxStateID bounds the part of a name that stands for an agent: the name of an object is part of a subject, in base64, and
// servers take no line of over 4,096 bytes.
const maxStateID = 1536

// stateID stands for the agent in the names of its states: what no other agent's name is escaped to.
func (a Agent) stateID() string {
	id := Escape(a.Name)
	if len(id) <= maxStateID {
		return id
	}
	return "=sha256-" + digest(a.Name)
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// StateSubjects covers the contents of all states of the agent.
func (a Agent) StateSubjects() string {
	return ObjectChunkSubject(a.Project, statePrefix+a.Class+"."+a.stateID()+".>")
}

// ParseStateSubject takes the owner out of one of the subjects that StateSubjects covers, and the epoch under which the
// state was put.
func (a Agent) ParseStateSubject(subject string) (owner ObjectOwner, epoch uint64, err error) {
	rest, ok := strings.CutPrefix(subject, strings.TrimSuffix(a.StateSubjects(), ">"))
	token, _, _ := strings.Cut(rest, ".")
	if !ok || strings.Count(rest, ".") != 2 {
		return ObjectOwner{}, 0, fmt.Errorf("%w: subject %q: holds no state of agent %q", ErrName, subject, a)
	}
	return a.stateOwner(token)
}

// ParseStateObject takes the owner out of what a record refers to.
func (a Agent) ParseStateObject(object Object) (ObjectOwner, error) {
	t := strings.Split(object.Name, "/")
	if len(t) != 4 || t[0] != statePrefix+a.Class || t[1] != a.stateID() {
		return ObjectOwner{}, fmt.Errorf("%w: object %q: is no state of agent %q", ErrName, object.Name, a)
	}
	owner, _, err := a.stateOwner(t[2])
	return owner, err
}

// ParseStateName takes the agent, and the epoch under which it was put, out of the name of a state in the object store of a
// project. Of some agents with long names the name does not tell: that is an error.
func ParseStateName(project, name string) (a Agent, epoch uint64, err error) {
	t := strings.Split(name, "/")
	if len(t) != 4 || !strings.HasPrefix(t[0], statePrefix) {
		return a, 0, fmt.Errorf("%w: object %q: is no state of an agent", ErrName, name)
	}
	a = Agent{Project: project, Class: strings.TrimPrefix(t[0], statePrefix)}
	if a.Name, err = Unescape(t[1]); err != nil {
		return a, 0, fmt.Errorf("object %q: %w", name, err)
	}
	if err := CheckClass(a.Class); err != nil {
		return a, 0, fmt.Errorf("object %q: %w", name, err)
	}
	_, epoch, err = a.stateOwner(t[2])
	return a, epoch, err
}

func (a Agent) stateOwner(token string) (owner ObjectOwner, epoch uint64, err error) {
	first, second, _ := strings.Cut(token, "-")
	epoch, err = parseCanonical(first)
	put, putErr := parseCanonical(second)
	if err := errors.Join(err, putErr); err != nil {
		return ObjectOwner{}, 0, fmt.Errorf("state %q of agent %q: %w", token, a, err)
	}
	return StateOwner(a, epoch, put), epoch, nil
}

// ObjectDigest is the digest in the name of an object, whoever owns it.
func ObjectDigest(name string) (string, error) {
	digest := name[strings.LastIndexByte(name, '/')+1:]
	if sum, err := hex.DecodeString(digest); err != nil || len(sum) != sha256.Size || strings.ToLower(digest) != digest {
		return "", fmt.Errorf("%w: object %q: %q is no digest", ErrName, name, digest)
	}
	return digest, nil
}

// The object store keeps the format of NATS object stores, so that every client takes it for one.

// ObjectsStream is the stream behind the object store of a project.
func ObjectsStream(project string) string { return "OBJ_" + ObjectsBucket(project) }

// ObjectMetaSubject holds what is known of an object.
func ObjectMetaSubject(project, name string) string {
	return "$O." + ObjectsBucket(project) + ".M." + base64.URLEncoding.EncodeToString([]byte(name))
}

// ObjectMetaSubjects covers what is known of all objects.
func ObjectMetaSubjects(project string) string { return "$O." + ObjectsBucket(project) + ".M.>" }

// ObjectChunkSubjects covers the contents of all objects.
func ObjectChunkSubjects(project string) string { return "$O." + ObjectsBucket(project) + ".C.>" }

// ObjectChunkSubject holds the content of an object that was put with chunks under this id (see ChunksID).
func ObjectChunkSubject(project, id string) string {
	return "$O." + ObjectsBucket(project) + ".C." + id
}

// ChunksID is the id of the content of an object, put in one try. It tells whose it is: what belongs to an owner can be
// found and purged without a look at all objects.
func (o ObjectOwner) ChunksID(digest, try string) string {
	return o.Workflow + "." + o.ID + "." + o.Token + "." + digest + "." + try
}

// ChunkSubjects covers the contents of all objects of the owner.
func (o ObjectOwner) ChunkSubjects() string {
	return ObjectChunkSubject(o.Project, o.Workflow+"."+o.ID+"."+o.Token+".>")
}

// ParseChunkDigest takes the digest out of one of the subjects that ChunkSubjects covers.
func (o ObjectOwner) ParseChunkDigest(subject string) (string, error) {
	rest, ok := strings.CutPrefix(subject, strings.TrimSuffix(o.ChunkSubjects(), ">"))
	digest, _, cut := strings.Cut(rest, ".")
	if !ok || !cut {
		return "", fmt.Errorf("%w: subject %q: holds no content of an object of %s/%s", ErrName, subject, o.Workflow, o.ID)
	}
	return digest, nil
}

// ObjectNameOf is the name of the object that a subject of the object store of a project is about, "" if there is none.
func ObjectNameOf(project, subject string) string {
	if token, ok := strings.CutPrefix(subject, strings.TrimSuffix(ObjectMetaSubjects(project), ">")); ok {
		name, err := base64.URLEncoding.DecodeString(token)
		if err != nil {
			return ""
		}
		return string(name)
	}
	token, ok := strings.CutPrefix(subject, strings.TrimSuffix(ObjectChunkSubjects(project), ">"))
	t := strings.Split(token, ".")
	if !ok || len(t) != 5 {
		return ""
	}
	return ObjectOwner{Project: project, Workflow: t[0], ID: t[1], Token: t[2]}.ObjectName(t[3])
}
