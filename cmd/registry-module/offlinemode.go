package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
	_ "time/tzdata" // the image has no other, and TZ is to mean something

	"github.com/sirupsen/logrus"

	"registry-module/config"
	"registry-module/internal/durable"
	"registry-module/internal/schedule"
	"registry-module/upstream"
)

// Modes of operation, as far as offline mode is concerned.
const (
	modeOn   = "on"   // offline
	modeOff  = "off"  // not offline
	modeAuto = "auto" // as configured
)

// offlineStatus is whether remotes are left alone, and why.
type offlineStatus struct {
	Offline bool   `json:"offline"`
	Mode    string `json:"mode"` // modeOn and so on
	Reason  string `json:"reason"`
	// Until is when that changes by itself; zero is never.
	Until time.Time `json:"until,omitzero"`
}

// String is for logs and terminals.
func (s offlineStatus) String() string {
	text := "offline mode is off"
	if s.Offline {
		text = "offline mode is on"
	}
	return text + s.until() + ": " + s.Reason
}

func (s offlineStatus) until() string {
	if s.Until.IsZero() {
		return ""
	}
	return " until " + s.Until.Format("Mon 2006-01-02 15:04 MST")
}

// override is what the operator has said at run time. The zero value is nothing. It is
// kept in a file, so that it outlives restarts: who was switched off a link must not use
// it after a power cut.
type override struct {
	Mode  string    `json:"mode"` // modeOn or modeOff, empty for modeAuto
	Since time.Time `json:"since"`
	// unread is the file that it could not be read from, if so.
	unread string
}

// overridePath is the file that keeps the override.
func overridePath(dataDir string) string {
	return filepath.Join(dataDir, "registry-module.offline.json")
}

// maxOverride bounds, in bytes, what is read of that file: far more than is written.
const maxOverride = 4 << 10

// readOverride reads what writeOverride has written. Where that is there and cannot be
// read, or is damaged, it returns an error and an override that switches offline mode on:
// somebody had switched something, and a link that must not be used costs more than one
// that is not.
func readOverride(path string) (override, error) {
	content, err := durable.ReadFile(durable.OS{}, path, maxOverride)
	if errors.Is(err, fs.ErrNotExist) {
		return override{}, nil
	}
	var o override
	if err == nil {
		err = json.Unmarshal(content, &o)
	}
	if err == nil && o.Mode != modeOn && o.Mode != modeOff {
		err = fmt.Errorf("the mode is neither %s nor %s", modeOn, modeOff)
	}
	if err != nil {
		return override{Mode: modeOn, unread: path}, fmt.Errorf("what `registry-module offline` has set cannot be read, so that offline mode is on (%s): %w; "+
			"`registry-module offline auto` goes back to what is configured", path, err)
	}
	return o, nil
}

// writeOverride keeps o durably, in a directory that is ours.
func writeOverride(path string, o override) error {
	err := func() error {
		if o.Mode != "" {
			content, err := json.Marshal(o)
			if err != nil {
				return err
			}
			return durable.WriteFile(durable.OS{}, path, append(content, '\n'))
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return durable.SyncDir(durable.OS{}, filepath.Dir(path))
	}()
	if err != nil {
		return fmt.Errorf("keeping the mode: %w", err)
	}
	return nil
}

// newOverride is what the operator says now.
func newOverride(mode string, now time.Time) (override, error) {
	switch mode {
	case modeAuto:
		return override{}, nil
	case modeOn, modeOff:
		return override{Mode: mode, Since: now.Round(time.Second)}, nil
	}
	return override{}, fmt.Errorf("there is no mode %q: write %s, %s or %s", mode, modeOn, modeOff, modeAuto)
}

// offlineRules say when remotes are left alone.
type offlineRules struct {
	remotes bool // there are some
	always  bool
	windows schedule.Windows
}

func newOfflineRules(cfg *config.Config) offlineRules {
	return offlineRules{remotes: len(cfg.Remotes) > 0, always: cfg.Offline, windows: cfg.OfflineSchedule}
}

// status is what o and the rules come to.
func (r offlineRules) status(o override, now time.Time) offlineStatus {
	s := offlineStatus{Mode: cmp.Or(o.Mode, modeAuto)}
	since := o.Since.Local().Format("Mon 2006-01-02 15:04 MST")
	const back = "`registry-module offline auto` goes back to what is configured"
	switch {
	case !r.remotes:
		s.Offline = true
		s.Reason = "no remote registry is configured, so that only what is stored is served; set REGISTRY_PROXY_REMOTEURL to have one"
	case o.unread != "":
		s.Offline, s.Reason = true, "what `registry-module offline` has set cannot be read from "+o.unread+", and may have been that it is on; "+back
	case o.Mode == modeOn:
		s.Offline, s.Reason = true, "it was switched on, "+since+"; "+back
	case o.Mode == modeOff:
		s.Reason = "it was switched off, " + since + "; " + back
	case r.always:
		s.Offline, s.Reason = true, "REGISTRY_PROXY_OFFLINE is true; `registry-module offline off` overrides it"
	case !r.windows.IsZero():
		s.Offline, s.Until = r.windows.At(now)
		s.Reason = "it is none of the times of REGISTRY_PROXY_OFFLINESCHEDULE"
		if s.Offline {
			s.Reason = "it is one of the times of REGISTRY_PROXY_OFFLINESCHEDULE; `registry-module offline off` overrides it"
		}
	default:
		s.Reason = "neither REGISTRY_PROXY_OFFLINE nor REGISTRY_PROXY_OFFLINESCHEDULE says otherwise; `registry-module offline on` switches it on"
	}
	return s
}

// offlineControl keeps a Switch as the rules and the operator want it.
type offlineControl struct {
	path    string // of the override
	contact *upstream.Switch
	log     logrus.FieldLogger
	now     func() time.Time

	mu       sync.Mutex // guards following
	rules    offlineRules
	override override
	last     offlineStatus

	changed chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
}

// startOfflineControl sets contact before it returns, and follows the rules until Close.
func startOfflineControl(cfg *config.Config, contact *upstream.Switch, log logrus.FieldLogger) *offlineControl {
	c := &offlineControl{
		rules: newOfflineRules(cfg), path: overridePath(cfg.DataDir), contact: contact, log: log, now: time.Now,
	}
	c.start()
	return c
}

// setRules follows those of another configuration from now on.
func (c *offlineControl) setRules(cfg *config.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules = newOfflineRules(cfg)
	c.applyLocked()
	c.poke()
}

// poke has follow look again.
func (c *offlineControl) poke() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *offlineControl) start() {
	var err error
	if c.override, err = readOverride(c.path); err != nil {
		c.log.Warn(err)
	}
	c.apply()
	ctx, stop := context.WithCancel(context.Background())
	c.changed, c.stop, c.done = make(chan struct{}, 1), stop, make(chan struct{})
	go c.follow(ctx)
}

// maxPause bounds the time between two looks at the clock, which can be set, and stands
// still while the machine sleeps.
const maxPause = time.Minute

func (c *offlineControl) follow(ctx context.Context) {
	defer close(c.done)
	for {
		wait := maxPause
		if s := c.apply(); !s.Until.IsZero() {
			wait = min(wait, s.Until.Sub(c.now().Round(0)))
		}
		select {
		case <-time.After(wait):
		case <-c.changed:
		case <-ctx.Done():
			return
		}
	}
}

// apply does what the rules and the override say now.
func (c *offlineControl) apply() offlineStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applyLocked()
}

// applyLocked is apply for who holds c.mu.
func (c *offlineControl) applyLocked() offlineStatus {
	s, last := c.rules.status(c.override, c.now()), c.last
	if s == last {
		return s
	}
	var why error
	if s.Offline {
		why = errors.New(s.Reason)
		if !s.Until.IsZero() {
			why = fmt.Errorf("%s;%s", s.Reason, s.until())
		}
	}
	c.contact.Set(why)
	c.last = s
	// What is so by default, and stays so, is not worth a line; neither is that a
	// clock was set.
	news := s.Offline != last.Offline || s.Mode != cmp.Or(last.Mode, modeAuto) || last.Mode == "" && !s.Until.IsZero()
	if news && c.rules.remotes {
		c.log.Info(s)
	}
	return s
}

// Offline implements offlineSwitch.
func (c *offlineControl) Offline(context.Context) (offlineStatus, error) { return c.apply(), nil }

// SetOffline implements offlineSwitch. What cannot be kept is done all the same where it
// is to leave remotes alone.
func (c *offlineControl) SetOffline(_ context.Context, mode string) (offlineStatus, error) {
	o, err := newOverride(mode, c.now())
	if err != nil {
		return offlineStatus{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if mode == modeOn {
		c.override = o
		c.applyLocked() // at once: a disk can be slow
	}
	if err := writeOverride(c.path, o); err != nil {
		if mode == modeOn {
			return c.last, fmt.Errorf("offline mode is on, but only until the program ends: %w", err)
		}
		return c.last, err
	}
	c.override = o
	s := c.applyLocked()
	c.poke()
	return s, nil
}

// Close implements io.Closer. Contact stays as it is.
func (c *offlineControl) Close() error {
	c.stop()
	<-c.done
	return nil
}
