package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/distribution/distribution/v3/registry/auth"
	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// rememberFor is how long after its last use a log-in is remembered, and maxLogins how
	// many are.
	rememberFor = 5 * time.Minute
	maxLogins   = 1024
	// maxHashing is how many passwords are compared with their hashes at a time, which
	// takes a core up to a second on a gateway, and maxWaiting how many wait for that.
	maxHashing = 2
	maxWaiting = 64
	// maxAgain is how many more are compared of those who had the right one before, who do
	// not wait behind others.
	maxAgain = 1
)

// credential stands for a user name and a password. It says nothing of them to who does
// not have the key, which is in no other process.
type credential [sha256.Size]byte

// identifier makes credentials.
type identifier struct{ key [32]byte }

func newIdentifier() *identifier {
	i := new(identifier)
	_, _ = rand.Read(i.key[:]) // which never fails
	return i
}

// of returns what stands for a user name and a password.
func (i *identifier) of(user, password string) (id credential) {
	mac := hmac.New(sha256.New, i.key[:])
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(user)))
	mac.Write(length[:])
	mac.Write([]byte(user))
	mac.Write([]byte(password))
	mac.Sum(id[:0])
	return id
}

// logins asks an access controller that compares passwords with the hashes in a file, as
// seldom as possible: Docker sends the password with each request.
type logins struct {
	controller auth.AccessController
	file       string
	now        func() time.Time
	hashing    *slots
	again      *slots
	flights    flights[credential]
	known      *lru.Cache[credential, login]
	// before has those that were good the last time, however long ago.
	before *lru.Cache[credential, struct{}]
}

// login is one that was good.
type login struct {
	version fs.FileInfo // of the file
	used    time.Time
}

func newLogins(controller auth.AccessController, file string, now func() time.Time, hashing *slots) *logins {
	known, err := lru.New[credential, login](maxLogins)
	before, beforeErr := lru.New[credential, struct{}](maxLogins)
	if err := errors.Join(err, beforeErr); err != nil {
		panic(err) // the sizes are constants
	}
	return &logins{
		controller: controller, file: file, now: now, hashing: hashing, again: newSlots(maxAgain, maxWaiting),
		known: known, before: before,
	}
}

// remembered tells whether a log-in was good not long ago, by the file as it is.
func (l *logins) remembered(id credential) bool {
	known, ok := l.known.Get(id)
	if !ok {
		return false
	}
	now := l.now()
	version, err := os.Stat(l.file)
	if err != nil || !sameVersion(version, known.version) || now.Sub(known.used) >= rememberFor {
		l.known.Remove(id)
		return false
	}
	l.known.Add(id, login{known.version, now})
	return true
}

// sameVersion tells whether a file has not been written to, or replaced.
func sameVersion(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// check asks the controller about what is in the Authorization header. It does not end
// before it has an answer, once it has a slot, of which begun is told.
func (l *logins) check(ctx context.Context, begun func(), id credential, authorization string) error {
	room := l.hashing
	if l.before.Contains(id) {
		room = l.again
	}
	if err := room.take(ctx); err != nil {
		return err
	}
	defer room.give()
	begun()
	before, statErr := os.Stat(l.file)
	r := (&http.Request{Method: http.MethodGet, Header: http.Header{"Authorization": {authorization}}}).WithContext(ctx)
	grant, err := l.controller.Authorized(r)
	if err == nil && grant == nil {
		err = errNoGrant
	}
	if err != nil {
		l.before.Remove(id)
		return err
	}
	l.before.Add(id, struct{}{})
	if statErr != nil {
		return nil
	}
	if after, err := os.Stat(l.file); err == nil && sameVersion(before, after) {
		l.known.Add(id, login{before, l.now()})
	}
	return nil
}

// errNoGrant is why nobody is let in whom the access controller has nothing to say to.
var errNoGrant = errors.New("the access controller has not granted access")

// byPassword logs in by user name and password.
func (g *Gate) byPassword(r *http.Request, user, password string) error {
	id := g.ids.of(user, password)
	if g.logins.remembered(id) {
		return nil
	}
	start := g.now()
	address := addressOf(r)
	key := keyOf(user, address)
	try, err := g.brake.enter(key, pair{id: id}, g.logins.before.Contains(id))
	if err != nil {
		return err
	}
	defer try.leave()
	ctx := r.Context()
	authorization := r.Header.Get("Authorization")
	f := g.logins.flights.join(ctx, g.work, id, start, func(ctx context.Context, detach func()) error {
		err := g.logins.check(ctx, detach, id, authorization)
		switch {
		case err == nil:
			g.brake.succeed(key)
		case isChallenge(err):
			return &failure{err, g.brake.fail(user, address)}
		}
		return err
	})
	defer g.logins.flights.leave(id, f)
	select {
	case <-f.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	try.looked()
	if failed, ok := errors.AsType[*failure](f.err); ok {
		return g.brake.hold(ctx, start, failed.delay, failed.err)
	}
	return f.err
}

// failure is a failed log-in, whose answer is held.
type failure struct {
	err   error
	delay time.Duration
}

func (f *failure) Error() string { return f.err.Error() }

// addressOf is the address of a client, or of the proxy that it comes by.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return fmt.Sprintf("%.64s", r.RemoteAddr)
	}
	return host
}

// basicOf returns the user name and the password of a request. Some clients send empty ones
// where they have none.
func basicOf(r *http.Request) (user, password string, given bool) {
	user, password, given = r.BasicAuth()
	return user, password, given && (user != "" || password != "")
}
