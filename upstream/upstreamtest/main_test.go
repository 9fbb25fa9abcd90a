package upstreamtest_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// No test leaves loopback: all addresses here are numbers, and no name is
	// looked up.
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("a test looks up a name")
	}}
	goleak.VerifyTestMain(m)
}
