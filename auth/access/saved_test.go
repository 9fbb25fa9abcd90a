package access_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/auth/access"
)

func TestThroughAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc := new(document)
		restart := func(says answer, do func(b *bench)) {
			t.Helper()
			r := &remote{check: says}
			g, err := access.New(access.Options{Document: doc, PassThrough: map[string]access.PassThrough{"r.example": {Checker: r, Grace: 168 * time.Hour}}})
			if err != nil {
				t.Fatal(err)
			}
			do(&bench{t, g, r})
			if err := g.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		app := of("team/app", "v1")
		restart(serving, func(b *bench) {
			b.try(b.line1(), app, "200", 0, 1)
			synctest.Wait()
			if n := doc.written(); n != 0 {
				t.Errorf("written %d times at once", n)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if n := doc.written(); n != 1 {
				t.Errorf("written %d times after 5 s, want once", n)
			}
		})
		if content := string(doc.content); strings.Contains(content, "secret") || strings.Contains(content, "line1") || !strings.Contains(content, "team/app") {
			t.Errorf("the document is %s", content)
		}
		restart(away, func(b *bench) {
			b.try(b.line1(), app, "200", 0, 1)
			b.try(b.wrong(), app, "503", 0, 1)
			b.try(b.line1(), of("team/other", "v1"), "503", 0, 1)
		})
		restart(hanging(time.Hour, serving), func(b *bench) {
			b.try(b.line1(), app, "200", 1500*time.Millisecond, 1)
		})
		// Who does not come in between is not forgotten, and who is refused is.
		restart(denying, func(b *bench) {
			b.try(from(t.Context(), "other", "secret"), app, "403", time.Second/2, 1)
		})
		restart(away, func(b *bench) { b.try(b.line1(), app, "200", 0, 1) })
		restart(denying, func(b *bench) {
			b.try(b.line1(), app, "403", time.Second/2, 1)
		})
		restart(away, func(b *bench) { b.try(b.line1(), app, "503", 0, 1) })
		// And not for longer than the grace.
		restart(serving, func(b *bench) { b.try(b.line1(), app, "200", 0, 1) })
		time.Sleep(168 * time.Hour)
		restart(away, func(b *bench) { b.try(b.line1(), app, "503", 0, 1) })
	})
}

// TestDocumentIsSeldomWritten has a gate work for a day.
func TestDocumentIsSeldomWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc := new(document)
		b := newBench(t, access.Options{Document: doc})
		for range 24 * 60 / 11 {
			b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
			time.Sleep(11 * time.Minute) // at no time when something is written
		}
		if n := doc.written(); n < 12 || n > 24 {
			t.Errorf("written %d times a day", n)
		}
	})
}

func TestDocumentFails(t *testing.T) {
	for name, content := range map[string]string{
		"damaged":       "{",
		"newer":         `{"version": 2, "salt": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`,
		"without salt":  `{"version": 1}`,
		"another thing": `[]`,
	} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			logger := logrus.New()
			logger.SetOutput(&log)
			b := newBench(t, access.Options{Document: &document{content: []byte(content)}, Log: logger})
			b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
			if !strings.Contains(log.String(), "cannot be read") {
				t.Errorf("%s: the log is %q", name, log.String())
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := logrus.New()
		logger.SetOutput(&log)
		doc := &document{err: errors.New("disk full")}
		b := newBench(t, access.Options{Document: doc, Log: logger})
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := strings.Count(log.String(), "cannot be saved"); n != 1 {
			t.Errorf("the log is %q", log.String())
		}
		if n := doc.written(); n < 2 || n > 10 {
			t.Errorf("written %d times", n)
		}
		doc.mu.Lock()
		doc.err = nil
		doc.mu.Unlock()
	})
}

// FuzzDocument reads what somebody else has written.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"version":1,"salt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","credentials":[{"scrypt":"AAAA","repositories":[{"host":"r.example","repository":"a","confirmed":"2026-01-01T00:00:00Z"}]}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		doc := &document{content: content}
		g, err := access.New(access.Options{Document: doc, PassThrough: map[string]access.PassThrough{"r.example": {Checker: &remote{}, Grace: time.Hour}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
