package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Server is a registry that runs: registry-module or the stock one.
type Server struct {
	*Process
	// Addr is host:port of the API, Admin that of the admin listener (empty for
	// the stock registry).
	Addr, Admin string
	// Data is its data directory.
	Data string
}

// URL is the server's address as a URL without a path.
func (s *Server) URL() string { return "http://" + s.Addr }

// Metric reads a metric without labels at the admin listener.
func (s *Server) Metric(ctx context.Context, name string) (value float64, err error) {
	text, err := s.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("reading metrics: no %s in them", name)
}

// MetricSum adds up a metric over all of its labels. One that is not there is 0.
func (s *Server) MetricSum(ctx context.Context, name string) (sum float64, err error) {
	text, err := s.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if metric, _, labels := strings.Cut(series, "{"); !labels || metric != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("reading metrics: %w", err)
		}
		sum += v
	}
	return sum, nil
}

// Metrics is what the admin listener gives to a collector, as text.
func (s *Server) Metrics(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/metrics", nil)
	if err != nil {
		return "", err
	}
	req.Close = true // a connection that is kept is one that is counted
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return "", fmt.Errorf("reading metrics: %w", err)
	}
	return string(text), nil
}

// Restart stops the server and starts it again: same address, same data, same
// settings.
func (s *Server) Restart(ctx context.Context) error {
	p, err := s.Process.Restart(ctx)
	if err != nil {
		return err
	}
	s.Process = p
	return nil
}

// StartModule starts registry-module in a directory of its own, with its data
// in dir/data. It listens at a free address unless env says where.
func StartModule(ctx context.Context, binary, dir string, env Env) (*Server, error) {
	return StartModuleWith(ctx, ModuleOptions{Binary: binary, Dir: dir, Env: env})
}

// ModuleOptions says how to start a module. Binary and Dir are needed.
type ModuleOptions struct {
	Binary, Dir string
	Env         Env
	// User and Patience are as in [Spec]. The directory must be the user's.
	User     int
	Patience time.Duration
}

// logsRequests has a module log each request, which it does not by default: they are what
// says why a test has failed.
func logsRequests() Env { return Env{"REGISTRY_LOG_ACCESSLOG_SAMPLE": "100%"} }

// StartModuleWith is as [StartModule].
func StartModuleWith(ctx context.Context, o ModuleOptions) (*Server, error) {
	admin, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	all := Env{"REGISTRY_HTTP_DEBUG_ADDR": admin}
	maps.Copy(all, logsRequests())
	maps.Copy(all, o.Env)
	s, err := startServer(ctx, Spec{
		Name: "registry-module", Path: o.Binary, Args: []string{"serve"}, Dir: o.Dir, Env: all,
		User: o.User, Patience: o.Patience,
	})
	if err != nil {
		return nil, err
	}
	s.Admin = admin
	return s, nil
}

// StartStock starts the stock registry in a directory of its own, with its
// data in dir/data.
func StartStock(ctx context.Context, binary, dir string, env Env) (*Server, error) {
	// It does not start without a file. All settings are in the environment.
	config := filepath.Join(dir, "config.yml")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("starting the stock registry: %w", err)
	}
	if err := os.WriteFile(config, []byte("version: 0.1\nstorage: {filesystem: {}}\n"), 0o644); err != nil {
		return nil, fmt.Errorf("starting the stock registry: %w", err)
	}
	return startServer(ctx, Spec{Name: "registry", Path: binary, Args: []string{"serve", config}, Dir: dir, Env: env})
}

// startServer starts what the spec says, at a free address unless its environment
// says where.
func startServer(ctx context.Context, spec Spec) (*Server, error) {
	addr := spec.Env["REGISTRY_HTTP_ADDR"]
	if addr == "" {
		free, err := FreeAddr()
		if err != nil {
			return nil, err
		}
		addr = free
	}
	s := &Server{Addr: addr, Data: filepath.Join(spec.Dir, "data")}
	all := Env{
		"REGISTRY_HTTP_ADDR":                        addr,
		"REGISTRY_HTTP_SECRET":                      "lab",
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": s.Data,
	}
	maps.Copy(all, spec.Env)
	spec.Env = all
	spec.Ready = AnswersHTTP(s.URL()+"/v2/", http.StatusOK, http.StatusUnauthorized)
	var err error
	s.Process, err = Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return s, nil
}
