package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"registry-module/cache"
)

// enough is longer than anything here takes, on any machine.
const enough = time.Minute

// What the running server says is the same as what is said without one, errors included.
func TestImagesOverSocket(t *testing.T) {
	pin := cache.Pin{Pattern: "team/app:latest", Reason: cache.PinnedByOperator, Since: time.Unix(1e9, 0).UTC()}
	store := &fakeStore{images: storedImages(), pins: []cache.Pin{pin}, collection: cache.Collection{
		Victims: []cache.Victim{{Digest: sum("1"), Why: "room", Bytes: 5}, {Digest: sum("2"), Why: "expired"}},
		Freed:   5, Used: 7, Limit: 9, Kept: 1, Busy: 2,
	}}
	client, _ := controlledImages(t, store, fakeBindings{})
	here := named(t, store, fakeBindings{})
	for name, do := range map[string]func(i imageControl) (any, error){
		"list": func(i imageControl) (any, error) {
			var all []cache.Image
			for image, err := range i.Images(t.Context()) {
				if err != nil {
					return all, err
				}
				all = append(all, image)
			}
			return all, nil
		},
		"inspect":           func(i imageControl) (any, error) { return i.Inspect(t.Context(), "team/app") },
		"inspect, absent":   func(i imageControl) (any, error) { return i.Inspect(t.Context(), "team/none") },
		"inspect, nonsense": func(i imageControl) (any, error) { return i.Inspect(t.Context(), "A&name=team/app") },
		"pins":              func(i imageControl) (any, error) { return i.Pins(t.Context()) },
		"pin, nonsense":     func(i imageControl) (any, error) { return i.Pin(t.Context(), "{a") },
		"unpin, nonsense":   func(i imageControl) (any, error) { return i.Unpin(t.Context(), "{a") },
		"unpin, not pinned": func(i imageControl) (any, error) { return i.Unpin(t.Context(), "a") },
		"remove, pinned": func(i imageControl) (any, error) {
			return i.Remove(t.Context(), removeOptions{Image: "team/app:latest"})
		},
		"remove": func(i imageControl) (any, error) { return i.Remove(t.Context(), removeOptions{Image: "team/app:same"}) },
		"remove all": func(i imageControl) (any, error) {
			return i.Remove(t.Context(), removeOptions{Image: "both/app", All: true})
		},
		"remove, no tag": func(i imageControl) (any, error) {
			return i.Remove(t.Context(), removeOptions{Image: "team/app", Force: true})
		},
		"collect": func(i imageControl) (any, error) { return i.Collect(t.Context(), cache.CollectOptions{}) },
		"collect, with more": func(i imageControl) (any, error) {
			return i.Collect(t.Context(), cache.CollectOptions{Free: 3 << 40, DryRun: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, gotErr := do(client)
			want, wantErr := do(here)
			a, err1 := json.Marshal(got)
			b, err2 := json.Marshal(want)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			if wantErr == nil && string(a) != string(b) {
				t.Errorf("got  %s\nwant %s", a, b)
			}
			if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
				t.Errorf("error %v, want %v", gotErr, wantErr)
			}
			for _, k := range kinds {
				if errors.Is(gotErr, k.kind) != errors.Is(wantErr, k.kind) {
					t.Errorf("%v is of another kind than %v", gotErr, wantErr)
				}
			}
		})
	}
	slices.SortFunc(store.collected, func(a, b cache.CollectOptions) int { return int(a.Free>>40 - b.Free>>40) })
	if n := len(store.collected); n != 4 || store.collected[0] != store.collected[1] || store.collected[2] != store.collected[3] || !store.collected[3].DryRun {
		t.Errorf("collected with %+v", store.collected)
	}
	if p, err := client.Pin(t.Context(), "ours/team/app:v1"); err != nil || len(p) != 1 || p[0] != (pinned{"ours.test:5000/team/app:v1", 1}) {
		t.Errorf("%v, %v", p, err)
	}
	if u, err := client.Unpin(t.Context(), "ours/team/app:v1"); err != nil || len(u.Removed) != 1 || len(store.pins) != 1 {
		t.Errorf("%v, %v, left %v", u, err, store.pins)
	}
	if r, err := client.Remove(t.Context(), removeOptions{Image: "team/app:latest", Force: true}); err != nil || len(r.Unpinned) != 0 {
		// The image itself says nothing of the pin, so that the store refuses.
		if !errors.Is(err, cache.ErrPinned) {
			t.Errorf("%v, %v", r, err)
		}
	}
}

// A list of any length is held on neither side: its beginning is there before its end
// is made.
func TestLongListIsStreamed(t *testing.T) {
	const long, ahead = 20_000, 10_000 // what sockets and buffers hold on the way is less
	seen := make(chan struct{})
	store := &fakeStore{images: make([]cache.Image, long), listing: func(at int) error {
		if at != ahead {
			return nil
		}
		select {
		case <-seen:
			return nil
		case <-time.After(enough):
			return errors.New("nothing has arrived")
		}
	}}
	for i := range store.images {
		store.images[i] = cache.Image{Repository: fmt.Sprintf("team/app%d", i), Tag: "v1", Digest: sum("1")}
	}
	controlledImages(t, store, fakeBindings{})
	first := &firstWrite{seen: seen}
	root := rootCommand()
	root.SetArgs([]string{"ls", "-o", "json"})
	root.SetOut(first)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first.lines < long {
		t.Errorf("%d lines", first.lines)
	}
}

// firstWrite tells when something is written, and counts lines.
type firstWrite struct {
	seen  chan struct{}
	lines int
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.lines == 0 {
		close(w.seen)
	}
	w.lines += strings.Count(string(p), "\n")
	return len(p), nil
}

// A list that is not whole is an error, whatever has cut it off.
func TestListIsNotWhole(t *testing.T) {
	t.Run("the store fails", func(t *testing.T) {
		controlledImages(t, &fakeStore{images: storedImages(), failing: errors.New("disk on fire")}, fakeBindings{})
		for _, output := range []string{"json", "table"} {
			out, _, err := command(t, "ls", "-o", output)
			if err == nil || !strings.Contains(err.Error(), "disk on fire") {
				t.Errorf("%s: %v", output, err)
			}
			if output == "json" && json.Valid([]byte(out)) {
				t.Errorf("what was printed looks whole: %s", out)
			}
		}
	})
	t.Run("the server dies", func(t *testing.T) {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			dir, err := os.MkdirTemp("", "images")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			ln, err := listenControl(dir)
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, `{"progress":{}}`+"\n") // without a last line
			})}
			done := make(chan error, 1)
			go func() { done <- srv.Serve(ln) }()
			client := newControlClient(controlPath(dir))
			if method == http.MethodGet {
				for _, listErr := range client.Images(t.Context()) {
					err = listErr
				}
			} else {
				_, err = client.Verify(t.Context(), cache.VerifyOptions{})
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %v", method, err)
			}
			_ = srv.Close() // what matters is that Serve returns
			<-done
		}
	})
}

// waiting is a verification that goes on until it is cancelled. Ended is closed then.
func waiting() (verify func(context.Context, cache.VerifyOptions) (cache.VerifyReport, error), ended chan struct{}) {
	ended = make(chan struct{})
	return func(ctx context.Context, o cache.VerifyOptions) (cache.VerifyReport, error) {
		o.Progress(cache.VerifyProgress{Blobs: 1, TotalBlobs: 2})
		<-ctx.Done()
		close(ended)
		return cache.VerifyReport{}, ctx.Err()
	}, ended
}

// What is stored is known before it is compared with anything.
func TestVerifyWaits(t *testing.T) {
	ready := false
	store := &fakeStore{
		ready: func(context.Context) error { ready = true; return nil },
		verify: func(context.Context, cache.VerifyOptions) (cache.VerifyReport, error) {
			if !ready {
				t.Error("verifies what is not known yet")
			}
			return cache.VerifyReport{}, nil
		},
	}
	client, _ := controlledImages(t, store, fakeBindings{})
	if _, err := client.Verify(t.Context(), cache.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	store.ready = func(context.Context) error { return errors.New("disk on fire") }
	if _, err := client.Verify(t.Context(), cache.VerifyOptions{}); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("%v", err)
	}
}

// Who gives up cancels the work, and so does the end of the server.
func TestVerifyIsCancelled(t *testing.T) {
	for name, tt := range map[string]struct {
		byUser bool
		want   string
	}{
		"by the user":   {true, "interrupted"},
		"by the server": {false, "interrupted: the server is being stopped"},
	} {
		t.Run(name, func(t *testing.T) {
			verify, ended := waiting()
			client, stop := controlledImages(t, &fakeStore{verify: verify}, fakeBindings{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := client.Verify(ctx, cache.VerifyOptions{Progress: func(cache.VerifyProgress) {
				if tt.byUser {
					cancel()
				} else {
					stop()
				}
			}})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			select {
			case <-ended:
			case <-time.After(enough):
				t.Error("the work goes on")
			}
		})
	}
}

// While a server runs that has no socket, nothing is opened beside it, and a directory
// that is not there is not made.
func TestImagesRefuseSecondOwner(t *testing.T) {
	quiet(t)
	missing := t.TempDir() + "/missing"
	long := t.TempDir() + strings.Repeat("/too-long", 15)
	serving(t, testConfig(t, long, ""))
	for _, args := range [][]string{
		{"ls"}, {"inspect", "a"}, {"pin", "a"}, {"pin", "--list"}, {"unpin", "a"}, {"rm", "a:1"}, {"gc"}, {"gc", "--dry-run"}, {"verify"},
	} {
		t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", long)
		if _, _, err := command(t, args...); err == nil || !strings.Contains(err.Error(), "in use by process") {
			t.Errorf("%v while a server runs: %v", args, err)
		}
		t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", missing)
		if _, _, err := command(t, args...); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("%v of a directory that is not there: %v", args, err)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the directory was made")
	}
}

// A server of another version, which does not have what it is asked for, is not one that
// stores nothing; and what is no directory is no server.
func TestOtherServer(t *testing.T) {
	quiet(t)
	dir, err := os.MkdirTemp("", "images")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NewServeMux()}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close() // what matters is that Serve returns
		<-done
	})
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir)
	all := [][]string{{"ls"}, {"inspect", "a"}, {"pin", "a"}, {"pin", "--list"}, {"unpin", "a"}, {"rm", "a:1"}, {"gc"}, {"verify"}}
	for _, args := range all {
		if _, _, err := command(t, args...); err == nil || !strings.Contains(err.Error(), "another version") {
			t.Errorf("%v: %v", args, err)
		}
	}
	file := dir + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", file)
	for _, args := range all {
		if _, _, err := command(t, args...); err == nil || !strings.Contains(err.Error(), "is not a directory") {
			t.Errorf("%v of a file: %v", args, err)
		}
	}
}

func TestControlParameters(t *testing.T) {
	client, _ := controlledImages(t, &fakeStore{}, fakeBindings{})
	for _, path := range []string{"/collect?free=-1", "/collect?free=x", "/verify?rate=9999999999999999999"} {
		resp, err := client.do(t.Context(), http.MethodPost, path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // its status is of interest
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}
