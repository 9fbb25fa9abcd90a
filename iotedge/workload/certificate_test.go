package workload_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/iotedge/workload"
	wt "registry-module/iotedge/workload/workloadtest"
)

// keeper is a certificate that is kept, in a bubble of package synctest, by an API
// outside of it.
type keeper struct {
	*workload.ServerCertificate
	t     *testing.T
	api   *wt.API
	clock *clock
	hook  *test.Hook
}

// keep runs fn with a certificate that the API gives for as long as life.
func keep(t *testing.T, life time.Duration, prepare func(*wt.API), fn func(*keeper)) {
	t.Helper()
	clock := new(clock)
	clock.last = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when bubbles begin
	api := wt.New(t, wt.Options{Now: clock.seen, Life: life})
	prepare(api)
	synctest.Test(t, func(t *testing.T) {
		log, hook := newLog()
		s, err := newClient(t, options(api)).NewServerCertificate(workload.CertificateOptions{Log: log, Now: clock.now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Run(ctx)
		}()
		fn(&keeper{s, t, api, clock, hook})
		cancel()
		<-ended
	})
}

func healthy(*wt.API) {}

// shown returns what a handshake shows.
func (k *keeper) shown() *x509.Certificate {
	k.t.Helper()
	cert, err := k.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		k.t.Fatal(err)
	}
	return cert.Leaf
}

// after lets d pass.
func (k *keeper) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	k.clock.now()
}

// wantAsked fails unless the API was asked for n certificates so far.
func (k *keeper) wantAsked(n int) {
	k.t.Helper()
	if got := k.api.Requests(wt.ServerCertificate); got != n {
		k.t.Errorf("%d certificates were asked for, want %d", got, n)
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	keep(t, 0, healthy, func(k *keeper) {
		first := k.shown()
		if want := k.clock.now().Add(90 * 24 * time.Hour); first.NotAfter.Sub(want).Abs() > time.Minute {
			t.Errorf("it is valid until %v, want 90 days", first.NotAfter)
		}
		if first.Subject.CommonName != gateway {
			t.Errorf("common name is %s", first.Subject.CommonName)
		}
		k.after(60*24*time.Hour - time.Hour)
		if k.shown() != first {
			t.Error("another one is shown before two thirds of its life are over")
		}
		k.wantAsked(1)
		k.after(2 * time.Hour)
		if k.shown() == first {
			t.Error("it was not renewed")
		}
		k.wantAsked(2)
	})
}

// The life that counts is what the API has really given, and that of the Edge CA.
func TestLifeIsWhatWasGiven(t *testing.T) {
	keep(t, 30*time.Hour, healthy, func(k *keeper) {
		first := k.shown()
		k.after(19 * time.Hour)
		if k.shown() != first {
			t.Error("it was renewed too early")
		}
		k.after(2 * time.Hour)
		if k.shown() == first {
			t.Error("it was not renewed in time")
		}
		k.wantAsked(2)
	})
	t.Run("Edge CA", func(t *testing.T) {
		keep(t, 0, healthy, func(k *keeper) {
			k.clock.set(time.Now().Add(360 * 24 * time.Hour)) // of the 365 of the Edge CA
			k.after(2 * time.Minute)
			k.shown()
			k.after(2 * 24 * time.Hour)
			asked := k.api.Requests(wt.ServerCertificate)
			k.after(2 * 24 * time.Hour)
			if k.api.Requests(wt.ServerCertificate) == asked {
				t.Error("it was not renewed before its Edge CA expires")
			}
		})
	})
}

// A runtime that is away when the module starts: handshakes fail, and are served as soon
// as it is there.
func TestAwayAtStart(t *testing.T) {
	keep(t, 0, func(api *wt.API) { api.Break(wt.ServerCertificate, wt.Fault{Drop: true}) }, func(k *keeper) {
		synctest.Wait()
		for range 100 { // in the time that an attempt holds for
			_, err := k.GetCertificate(&tls.ClientHelloInfo{})
			if err == nil || !strings.Contains(err.Error(), "there is no certificate to show: ") || !strings.Contains(err.Error(), "just being restarted") {
				t.Fatalf("error is %v", err)
			}
		}
		k.wantAsked(1)
		const text = "TLS handshakes fail until the IoT Edge workload API gives one"
		if n := logged(k.hook, logrus.ErrorLevel, text); n != 1 {
			t.Errorf("%d lines say so, want 1", n)
		}
		k.api.Mend()
		k.after(6 * time.Second)
		k.shown()
		k.wantAsked(2)
		if n := logged(k.hook, logrus.InfoLevel, "shows a new certificate"); n != 1 {
			t.Errorf("%d lines say that there is one, want 1", n)
		}
	})
}

// Without handshakes, attempts become rarer, and it is logged now and again.
func TestBackOff(t *testing.T) {
	keep(t, 0, func(api *wt.API) { api.Break(wt.ServerCertificate, wt.Fault{Status: 500, Message: "x"}) }, func(k *keeper) {
		k.after(time.Minute)
		k.wantAsked(4) // at 0, 5, 15 and 35 s
		k.after(time.Hour)
		if n := k.api.Requests(wt.ServerCertificate); n < 12 || n > 20 {
			t.Errorf("%d attempts in an hour", n)
		}
		lines := logged(k.hook, logrus.ErrorLevel, "no certificate")
		if lines < 10 || lines > 20 {
			t.Errorf("%d lines in an hour", lines)
		}
		// A handshake does not wait for the pause to end.
		k.api.Mend()
		k.after(10 * time.Second)
		k.shown()
	})
}

// A renewal that hangs: real time, since a bubble waits for the network for good.
func TestHandshakeIsNotHeldUpByOneThatHangs(t *testing.T) {
	clock := new(clock)
	api := wt.New(t, wt.Options{Now: clock.now})
	s, err := newClient(t, options(api)).NewServerCertificate(workload.CertificateOptions{Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, waited := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	first, err := s.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	// By another clock it has expired, so that a handshake waits for a new one.
	api.Break(wt.ServerCertificate, wt.Fault{Hang: true})
	clock.set(time.Now().Add(1000 * 24 * time.Hour))
	go func() {
		_, err := s.GetCertificate(&tls.ClientHelloInfo{})
		waited <- err
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for api.Requests(wt.ServerCertificate) < 2 {
		<-tick.C
	}
	clock.set(time.Now()) // and now it is valid
	if got, err := s.GetCertificate(&tls.ClientHelloInfo{}); err != nil || got != first {
		t.Errorf("got %v, %v", got, err)
	}
	select {
	case err := <-waited:
		t.Errorf("the other handshake has not waited: %v", err)
	default:
	}
	api.Stop()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	cancel()
	<-ended
}

// No handshake waits for a renewal that fails, and it is tried again.
func TestHandshakesAreNotHeldUp(t *testing.T) {
	for name, fault := range map[string]wt.Fault{
		"fails": {Status: 500, Message: "no"},
		"drops": {Drop: true},
	} {
		t.Run(name, func(t *testing.T) {
			keep(t, 30*time.Hour, healthy, func(k *keeper) {
				first := k.shown()
				k.api.Break(wt.ServerCertificate, fault)
				time.Sleep(21 * time.Hour)
				for range 10 {
					start := time.Now()
					if k.shown() != first {
						t.Error("another one is shown")
					}
					if waited := time.Since(start); waited != 0 {
						t.Errorf("a handshake has waited for %v", waited)
					}
					time.Sleep(10 * time.Minute)
				}
				asked := k.api.Requests(wt.ServerCertificate)
				if asked < 10 || asked > 60 {
					t.Errorf("%d attempts", asked)
				}
				// The pause between attempts holds however many handshakes there are.
				for range 4 * 60 {
					k.shown()
					k.after(time.Second)
				}
				if more := k.api.Requests(wt.ServerCertificate) - asked; more > 2 {
					t.Errorf("%d attempts in 4 minutes", more)
				}
				if n := logged(k.hook, logrus.WarnLevel, "cannot be renewed yet"); n < 1 || n > asked+2 {
					t.Errorf("%d lines say so", n)
				}
				k.api.Mend()
				k.after(10 * time.Minute)
				if k.shown() == first {
					t.Error("it was not renewed")
				}
			})
		})
	}
}

// A renewal that brings what is not valid does not replace what is.
func TestRenewalBringsWhatIsNotValid(t *testing.T) {
	keep(t, 30*time.Hour, healthy, func(k *keeper) {
		first := k.shown()
		cert, key, err := k.api.EdgeCA().Issue(k.clock.now(), k.clock.now().Add(time.Hour), gateway)
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]any{"privateKey": map[string]string{"type": "key", "bytes": string(key)}, "certificate": string(cert)})
		if err != nil {
			t.Fatal(err)
		}
		k.api.Break(wt.ServerCertificate, wt.Fault{Body: string(body)})
		k.after(21 * time.Hour)
		if k.shown() != first {
			t.Error("one is shown that has expired")
		}
		if n := logged(k.hook, logrus.WarnLevel, "cannot be renewed yet"); n < 1 {
			t.Error("nothing says so")
		}
	})
}

// A certificate that has expired is better than none: clients say what is wrong. Each
// handshake looks for another one, at most every few seconds.
func TestExpired(t *testing.T) {
	keep(t, 3*time.Hour, healthy, func(k *keeper) {
		first := k.shown()
		k.api.Break(wt.ServerCertificate, wt.Fault{Drop: true})
		k.after(4 * time.Hour)
		for range 10 {
			if k.shown() != first {
				t.Error("another one is shown")
			}
		}
		if n := logged(k.hook, logrus.ErrorLevel, "clients refuse it"); n < 1 {
			t.Error("nothing says so")
		}
		k.api.Mend()
		time.Sleep(5 * time.Second) // the last attempt has not just been
		if k.shown() == first {
			t.Error("the handshake has not looked for another one")
		}
	})
}

// A clock that was wrong when the device has started, in both directions.
func TestClockIsSet(t *testing.T) {
	for name, by := range map[string]time.Duration{
		"forward":  50 * 365 * 24 * time.Hour,
		"backward": -10 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			keep(t, 0, healthy, func(k *keeper) {
				first := k.shown()
				synctest.Wait() // what the handshake has wanted is settled
				k.clock.set(time.Now().Add(by))
				k.clock.now()
				if err := k.api.Rotate(nil); err != nil { // so that the Edge CA is valid, too
					t.Fatal(err)
				}
				// At once, though the last attempt has just been, and the old one is not shown.
				got := k.shown()
				if now := k.clock.now(); got == first || now.Before(got.NotBefore) || now.After(got.NotAfter) {
					t.Errorf("at %v a certificate is shown that is valid from %v to %v", now, got.NotBefore, got.NotAfter)
				}
				k.wantAsked(2)
			})
		})
		t.Run(name+", without handshakes", func(t *testing.T) {
			keep(t, 0, healthy, func(k *keeper) {
				k.shown()
				synctest.Wait() // what the handshake has wanted is settled
				k.clock.set(time.Now().Add(by))
				k.clock.now()
				if err := k.api.Rotate(nil); err != nil {
					t.Fatal(err)
				}
				k.after(2 * time.Minute)
				k.wantAsked(2)
			})
		})
	}
}

// The device's Edge CA is not valid by its clock.
func TestGivenWhatIsNotValid(t *testing.T) {
	keep(t, 0, healthy, func(k *keeper) {
		k.shown()
		k.clock.set(time.Now().Add(-30 * 24 * time.Hour))
		for range 20 {
			k.shown() // better than nothing
			k.after(time.Second)
		}
		if n := k.api.Requests(wt.ServerCertificate); n > 7 {
			t.Errorf("%d attempts in 20 s", n)
		}
		entry := k.hook.LastEntry()
		if err, _ := entry.Data[logrus.ErrorKey].(error); err == nil || !strings.Contains(err.Error(), "set the clock of the device") {
			t.Errorf("logged is %v", entry.Data)
		}
	})
}
