package workload_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"registry-module/iotedge/workload"
	wt "registry-module/iotedge/workload/workloadtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gateway = "gw1.example.com"

// options are those of the environment that api gives to its module.
func options(api *wt.API) workload.Options {
	env := map[string]string{}
	for _, entry := range api.Environment(gateway) {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	return workload.FromEnvironment(func(name string) string { return env[name] })
}

func newClient(t *testing.T, opts workload.Options) *workload.Client {
	t.Helper()
	c, err := workload.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// clock is one that a test sets, and that goes on by itself. Who is not in the bubble of
// package synctest sees the last time that somebody in it has looked at.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
	last   time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.Now().Add(c.offset)
	return c.last
}

func (c *clock) seen() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func (c *clock) set(to time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = time.Until(to)
}

// newLog returns a log, and what is in it.
func newLog() (logrus.FieldLogger, *test.Hook) {
	return test.NewNullLogger()
}

// logged counts the entries of a level that have text in them.
func logged(hook *test.Hook, level logrus.Level, text string) (n int) {
	for _, e := range hook.AllEntries() {
		if e.Level == level && strings.Contains(e.Message, text) {
			n++
		}
	}
	return n
}
