package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/cache/index"
	"registry-module/config"
	"registry-module/upstream/breaker"
)

// bindings are what names of repositories have turned out to mean.
type bindings interface {
	Bindings(ctx context.Context) iter.Seq2[cache.Binding, error]
	Unbind(ctx context.Context, name string) (bool, error)
}

// controlPath is the socket by which commands talk to the running server. Who can
// open it could as well change the data directory.
func controlPath(dataDir string) string { return filepath.Join(dataDir, "registry-module.sock") }

// listenControl listens for commands. The data directory is ours alone, so that a
// socket that is there already is of a process that has ended.
func listenControl(dataDir string) (net.Listener, error) {
	path := controlPath(dataDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listening for commands: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for commands: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for commands: %w", err), ln.Close())
	}
	return ln, nil
}

// newControlServer serves commands until ctx ends: what takes long, such as verify, does
// not hold up the end of the program.
func newControlServer(ctx context.Context, h http.Handler, log logrus.FieldLogger) *http.Server {
	srv := newHTTPServer(h, log)
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	return srv
}

// controlHandler answers commands.
func controlHandler(b bindings, i imageControl, s offlineSwitch, statuses func() []breaker.Status) http.Handler {
	mux := http.NewServeMux()
	if i != nil {
		handleImages(mux, i)
	}
	if c, ok := i.(contentControl); ok {
		handleContents(mux, c)
	}
	mux.Handle("GET /remotes", remotesHandler(statuses))
	handleOffline(mux, s)
	mux.HandleFunc("GET /bindings", func(w http.ResponseWriter, r *http.Request) {
		all, err := listBindings(r.Context(), b)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, all)
	})
	mux.HandleFunc("DELETE /bindings", func(w http.ResponseWriter, r *http.Request) {
		switch was, err := b.Unbind(r.Context(), r.URL.Query().Get("name")); {
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		case !was:
			http.Error(w, "not bound", http.StatusNotFound)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	return mux
}

// listBindings collects bindings; it never returns nil without an error.
func listBindings(ctx context.Context, b bindings) ([]cache.Binding, error) {
	all := []cache.Binding{}
	for binding, err := range b.Bindings(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, binding)
	}
	return all, nil
}

// withBindings does something with the bindings of the data directory: by way of
// the server that runs on it, or directly where none does.
func withBindings(ctx context.Context, cfg *config.Config, do func(bindings) error) error {
	return withData(ctx, cfg,
		func(c *controlClient) error { return do(c) },
		func(d dataDir) error { return do(cache.Bindings{Index: d.index, TTL: orNever(cfg.BindingTTL)}) })
}

// dataDir is the data directory, open while no server runs on it.
type dataDir struct {
	store *disk.Store
	index *index.Index
	log   logrus.FieldLogger
}

// withData does something by way of the server that runs on the data directory, or
// directly where none does.
func withData(ctx context.Context, cfg *config.Config, byServer func(*controlClient) error, directly func(dataDir) error) error {
	remote := newControlClient(controlPath(cfg.DataDir))
	err := remote.ping(ctx)
	switch {
	case err == nil:
		return byServer(remote)
	case errors.Is(err, fs.ErrPermission):
		if owner, ok := ownerOf(cfg.DataDir); ok && owner != os.Geteuid() {
			err = fmt.Errorf("%w: the data directory is of user %d, %s", err, owner, runAs(owner))
		}
		return err
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("data directory %s is not a directory; %s", cfg.DataDir, nameIt)
	case !noServer(err) && !errors.Is(err, syscall.EINVAL):
		return err
	}
	// There is no server, or one without a socket, since the path is too long for one.
	if err := ownedBy(os.Geteuid(), cfg.DataDir); err != nil {
		return err
	}
	store, err := disk.Open(cfg.DataDir, disk.Options{})
	if err != nil {
		return fmt.Errorf("no running server answers at %s, and without one: %w", remote.path, err)
	}
	log := newCommandLogger(cfg, os.Stderr)
	idx, err := openIndex(cfg.DataDir, store, log)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	return errors.Join(directly(dataDir{store, idx, log}), replaceable{idx, log}.Close(), store.Close())
}

// ownedBy makes sure that the data directory is the user's, so that the server can read
// what is written to it.
func ownedBy(user int, dataDir string) error {
	if _, err := statDataDir(dataDir); err != nil {
		return err
	}
	if owner, ok := ownerOf(dataDir); ok && owner != user {
		return fmt.Errorf("data directory %s is of user %d, and no server runs on it: %s, or else the server could not read what it writes", dataDir, owner, runAs(owner))
	}
	return nil
}

// ownerOf is the user that owns the data directory, if that is known.
func ownerOf(dataDir string) (user int, ok bool) {
	info, err := os.Stat(dataDir)
	if err != nil {
		return 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// runAs says how to run a command as the user that owns the data directory.
func runAs(owner int) string {
	return fmt.Sprintf("run this command as that user (su, sudo -u '#%d', docker exec --user %[1]d)", owner)
}

// nameIt says how to name the data directory.
const nameIt = "name it as the server has it (REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY)"

func statDataDir(dataDir string) (fs.FileInfo, error) {
	info, err := os.Stat(dataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w; %s", err, nameIt)
	}
	return info, nil
}

// controlClient asks the running server.
type controlClient struct {
	path string
	http http.Client
}

func newControlClient(path string) *controlClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &controlClient{path, http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// ping tells whether there is a server.
func (c *controlClient) ping(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.path)
	if err != nil {
		return fmt.Errorf("talking to the running server: %w", err)
	}
	return conn.Close()
}

// noServer tells whether an error of ping means that nobody listens at the socket.
func noServer(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

func (c *controlClient) do(ctx context.Context, method, target string) (*http.Response, error) {
	return c.send(ctx, method, target, nil)
}

// send is do with a body; nil for none.
func (c *controlClient) send(ctx context.Context, method, target string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://registry-module"+target, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("talking to the running server at %s: %w", c.path, withoutURL(err))
	}
	return resp, nil
}

// unexpected is an error for an answer.
func unexpected(resp *http.Response) error {
	const enough = 1 << 10
	text, err := io.ReadAll(io.LimitReader(resp.Body, enough))
	return errors.Join(fmt.Errorf("the running server answers %s: %s", resp.Status, text), err)
}

// Bindings implements bindings.
func (c *controlClient) Bindings(ctx context.Context) iter.Seq2[cache.Binding, error] {
	return func(yield func(cache.Binding, error) bool) {
		resp, err := c.do(ctx, http.MethodGet, "/bindings")
		if err != nil {
			yield(cache.Binding{}, err)
			return
		}
		defer func() { _ = resp.Body.Close() }() // it was only read
		var all []cache.Binding
		if resp.StatusCode != http.StatusOK {
			err = unexpected(resp)
		} else {
			err = json.NewDecoder(resp.Body).Decode(&all)
		}
		if err != nil {
			yield(cache.Binding{}, err)
			return
		}
		for _, b := range all {
			if !yield(b, nil) {
				return
			}
		}
	}
}

// Unbind implements bindings.
func (c *controlClient) Unbind(ctx context.Context, name string) (bool, error) {
	resp, err := c.do(ctx, http.MethodDelete, "/bindings?name="+url.QueryEscape(name))
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	switch resp.StatusCode {
	case http.StatusNoContent:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, unexpected(resp)
}
