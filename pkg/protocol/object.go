package protocol

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// ObjectOwner is whom a value in an object store belongs to: one instance, from its create to its end. Another that
// has the same id later is another owner.
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
		sum := sha256.Sum256([]byte(input))
		token = hex.EncodeToString(sum[:])
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

// ParseObjectName is the inverse of ObjectName in the object store of a project.
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
	if sum, err := hex.DecodeString(t[3]); err != nil || len(sum) != sha256.Size || strings.ToLower(t[3]) != t[3] {
		return o, "", fmt.Errorf("%w: object %q: %q is no digest", ErrName, name, t[3])
	}
	return ObjectOwner{Project: project, Workflow: t[0], ID: t[1], Token: t[2]}, t[3], nil
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
