package accept

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// recordHandshake is the first byte of what a TLS client says (RFC 8446, section 5.1). No
// method of HTTP begins with it.
const recordHandshake = 0x16

const (
	// refusalTimeout is how long a client has to take a refusal.
	refusalTimeout = 2 * time.Second

	// refusalRead is how much of its request a client can get rid of after it was refused,
	// in bytes. Closing while it sends would take the refusal from it (RFC 9112, section
	// 9.6).
	refusalRead = 64 << 10
)

// welcome finds out what a new client speaks, and has Accept return it when it can be
// served.
func (l *Listener) welcome(c *conn) {
	l.patience(c)
	first, err := peek(c.raw)
	now := l.spoken.Load()
	switch {
	case err != nil:
		l.opts.Log.WithError(err).WithField("client", address(c.raw)).Debug("a client has left, or was closed, before it said anything")
		l.drop(c)
	case first == recordHandshake && now.tls != nil:
		l.welcomeTLS(c, now.tls)
	case now.require:
		l.refuse(c)
		l.drop(c)
	default:
		l.carryOn(c, c.raw)
	}
}

// welcomeTLS is welcome for a client that begins a handshake.
func (l *Listener) welcomeTLS(c *conn, conf *tls.Config) {
	l.patience(c)
	secured := tls.Server(c.raw, conf)
	if err := secured.Handshake(); err != nil {
		l.logRefused(address(c.raw), err)
		l.drop(c)
		return
	}
	l.carryOn(c, secured)
}

// patience bounds how long the next step may take.
func (l *Listener) patience(c *conn) {
	_ = c.raw.SetDeadline(time.Now().Add(l.opts.FirstByteTimeout)) // else it is closed already
}

// carryOn leaves deadlines to the server.
func (l *Listener) carryOn(c *conn, given net.Conn) {
	_ = c.raw.SetDeadline(time.Time{}) // else it is closed already
	l.give(c, given)
}

// peek waits for the first byte that a client sends, and leaves it where it is.
func peek(c net.Conn) (byte, error) {
	raw, err := rawConn(c)
	if err != nil {
		return 0, fmt.Errorf("reading the first byte: %w", err)
	}
	var buf [1]byte
	var n int
	var failed error
	err = raw.Read(func(fd uintptr) bool { // waits as Read does, to the deadline
		for {
			n, _, failed = unix.Recvfrom(int(fd), buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if failed != unix.EINTR {
				return failed != unix.EAGAIN
			}
		}
	})
	if err == nil && failed != nil {
		err = os.NewSyscallError("recvfrom", failed)
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return 0, fmt.Errorf("reading the first byte: %w", err)
	}
	return buf[0], nil
}

func rawConn(c net.Conn) (syscall.RawConn, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T: %w", c, errors.ErrUnsupported)
	}
	return sc.SyscallConn()
}

// hasInput tells whether something has come in on c that was not read yet. It does not
// wait.
func hasInput(c net.Conn) bool {
	raw, err := rawConn(c)
	if err != nil {
		return false
	}
	var n int
	err = raw.Control(func(fd uintptr) {
		var buf [1]byte
		n, _, _ = unix.Recvfrom(int(fd), buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT) // -1 for none
	})
	return err == nil && n > 0
}

// refuse tells a client that speaks plain HTTP that it must not, in the form of the OCI
// distribution specification ("Error Codes").
func (l *Listener) refuse(c *conn) {
	if dropped, ok := l.plain.next(); ok {
		l.opts.Log.WithField("client", address(c.raw)).WithField("before", dropped).
			Warn("plain HTTP was refused: clients have to show a certificate, which takes https")
	}
	_ = c.raw.SetDeadline(time.Now().Add(refusalTimeout)) // else it is closed already
	if _, err := io.WriteString(c.raw, refusal()); err != nil {
		return // nobody is there
	}
	if half, ok := c.raw.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, c.raw, refusalRead) // to whatever end
	}
}

func refusal() string {
	const body = `{"errors":[{"code":"DENIED","message":"this registry is to be asked by https and with a client certificate: http is not served on this port"}]}` + "\n"
	return strings.Join([]string{
		"HTTP/1.1 400 Bad Request",
		"Connection: close",
		"Content-Type: application/json",
		"Content-Length: " + strconv.Itoa(len(body)),
		"Docker-Distribution-Api-Version: registry/2.0",
		"", body}, "\r\n")
}
