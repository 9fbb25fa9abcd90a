package lab

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// Names is what a [Nameserver] does with questions.
type Names string

// The ways of a name server.
const (
	// Known has it give the addresses of the names that it knows.
	Known Names = "known"
	// Unheard has it say nothing.
	Unheard Names = "unheard"
	// NXDomain has it say that there is no such name.
	NXDomain Names = "NXDOMAIN"
)

// Nameserver answers questions for addresses (RFC 1035). It may be used by several
// goroutines.
type Nameserver struct {
	lookup  func(name string) (addr [4]byte, known bool)
	conn    net.PacketConn
	names   atomic.Pointer[Names]
	asked   atomic.Int64
	ended   chan struct{}
	closing sync.Once
}

// NewNameserver answers at a socket that all names below a domain are at an IPv4
// address, and that there are no others.
func NewNameserver(conn net.PacketConn, domain string, addr [4]byte) *Nameserver {
	return newNameserver(conn, func(name string) ([4]byte, bool) { return addr, strings.HasSuffix(name, "."+domain) })
}

// NewHosts answers at a socket with the addresses of hosts, and that there are no
// others.
func NewHosts(conn net.PacketConn, hosts map[string]netip.Addr) *Nameserver {
	lower := map[string][4]byte{}
	for host, addr := range hosts {
		lower[strings.ToLower(host)] = addr.As4()
	}
	return newNameserver(conn, func(name string) ([4]byte, bool) {
		addr, known := lower[name]
		return addr, known
	})
}

func newNameserver(conn net.PacketConn, lookup func(string) ([4]byte, bool)) *Nameserver {
	s := &Nameserver{lookup: lookup, conn: conn, ended: make(chan struct{})}
	s.Use(Known)
	go s.serve()
	return s
}

// Use changes what is answered.
func (s *Nameserver) Use(n Names) { s.names.Store(&n) }

// Asked returns how many questions have come.
func (s *Nameserver) Asked() int { return int(s.asked.Load()) }

// Close ends the server.
func (s *Nameserver) Close() (err error) {
	s.closing.Do(func() {
		err = s.conn.Close()
		<-s.ended
	})
	return err
}

func (s *Nameserver) serve() {
	defer close(s.ended)
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		s.asked.Add(1)
		answer, err := s.answer(buf[:n])
		if err == nil && answer != nil {
			_, _ = s.conn.WriteTo(answer, from) // who has gone does not wait
		}
	}
}

// answer returns nil for what is not to be answered.
func (s *Nameserver) answer(question []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil, err
	}
	if len(m.Questions) != 1 {
		return nil, fmt.Errorf("%d questions", len(m.Questions))
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	addr, known := s.lookup(strings.TrimSuffix(strings.ToLower(q.Name.String()), "."))
	switch names := *s.names.Load(); {
	case names == Unheard:
		return nil, nil
	case names == NXDomain, !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: addr},
		}}
	}
	return m.Pack()
}
