package load

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"syscall"
)

// scratchSize is what a client drops at a time. The memory is not touched, so
// it is not there.
const scratchSize = 4 << 20

// dropper is an HTTP client that can drop the bytes of a body in the kernel.
// Clients of a real server have processors of their own to copy what they get;
// here that would take more of the shared ones than the server itself.
type dropper struct {
	http.Client
	// scratch marks reads whose bytes nobody looks at: those into one of these,
	// from its first byte on. There is one for each blob at a time, since the
	// bytes that come along with an answer's header are copied there.
	scratch [blobsAtOnce][]byte
}

// newDropper returns a client with connections of its own, as separate
// machines have them.
func newDropper() *dropper {
	d := &dropper{}
	for i := range d.scratch {
		d.scratch[i] = make([]byte, scratchSize)
	}
	var dialer net.Dialer
	d.Transport = &http.Transport{
		Proxy:               nil, // loopback
		DisableCompression:  true,
		MaxIdleConnsPerHost: blobsAtOnce,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			tcp := conn.(*net.TCPConn) // no other network is asked for
			raw, err := tcp.SyscallConn()
			if err != nil {
				_ = tcp.Close() // the first error says more
				return nil, err
			}
			return &dropConn{tcp, raw, d}, nil
		},
	}
	return d
}

// dropConn drops what is read into scratch. Package net/http passes
// the buffer of a large read of a body down to the connection as it is.
type dropConn struct {
	*net.TCPConn
	raw   syscall.RawConn
	owner *dropper
}

func (d *dropper) isScratch(p []byte) bool {
	return len(p) > 0 && slices.ContainsFunc(d.scratch[:], func(s []byte) bool { return &s[0] == &p[0] })
}

// Read implements io.Reader.
func (c *dropConn) Read(p []byte) (n int, err error) {
	if !c.owner.isScratch(p) {
		return c.TCPConn.Read(p)
	}
	poll := c.raw.Read(func(fd uintptr) bool {
		for {
			// tcp(7): with MSG_TRUNC, received bytes are discarded and not
			// copied.
			n, _, err = syscall.Recvfrom(int(fd), p, syscall.MSG_TRUNC)
			if err != syscall.EINTR {
				return err != syscall.EAGAIN
			}
		}
	})
	switch {
	case poll != nil:
		return 0, poll
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
