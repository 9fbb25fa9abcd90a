package lab

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	req.Close = true // a connection that is kept is one that is counted
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("reading metrics: %s: no %s in it", resp.Status, name)
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
// in dir/data.
func StartModule(ctx context.Context, binary, dir string, env Env) (*Server, error) {
	admin, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	all := Env{"REGISTRY_HTTP_DEBUG_ADDR": admin}
	maps.Copy(all, env)
	s, err := startServer(ctx, "registry-module", binary, []string{"serve"}, dir, all)
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
	return startServer(ctx, "registry", binary, []string{"serve", config}, dir, env)
}

func startServer(ctx context.Context, name, binary string, args []string, dir string, env Env) (*Server, error) {
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: addr, Data: filepath.Join(dir, "data")}
	all := Env{
		"REGISTRY_HTTP_ADDR":                        addr,
		"REGISTRY_HTTP_SECRET":                      "lab",
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": s.Data,
	}
	maps.Copy(all, env)
	s.Process, err = Start(ctx, Spec{
		Name: name, Path: binary, Args: args, Env: all, Dir: dir,
		Ready: AnswersHTTP(s.URL()+"/v2/", http.StatusOK, http.StatusUnauthorized),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}
