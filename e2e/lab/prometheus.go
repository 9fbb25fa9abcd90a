package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
)

// Prometheus is Debian's, with its data in a directory of its own.
type Prometheus struct {
	*Process
	url string
}

// StartPrometheus starts it with a configuration file, relative to which rules are found.
func StartPrometheus(ctx context.Context, dir, config string) (*Prometheus, error) {
	path, err := System("prometheus", "prometheus")
	if err != nil {
		return nil, err
	}
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	p := &Prometheus{url: "http://" + addr}
	p.Process, err = Start(ctx, Spec{
		Name: "prometheus", Path: path, Dir: dir,
		Args: []string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"),
			"--web.listen-address=" + addr, "--log.level=warn"},
		Ready: AnswersHTTP(p.url+"/-/ready", http.StatusOK),
	})
	return p, err
}

// Query returns how many series an expression has now, and what its first value is.
func (p *Prometheus) Query(ctx context.Context, expr string) (series int, value string, err error) {
	var result struct {
		Result []struct {
			Value [2]any `json:"value"`
		} `json:"result"`
	}
	if err := p.get(ctx, "/api/v1/query?query="+url.QueryEscape(expr), &result); err != nil {
		return 0, "", fmt.Errorf("%s: %w", expr, err)
	}
	if len(result.Result) > 0 {
		value = fmt.Sprint(result.Result[0].Value[1])
	}
	return len(result.Result), value, nil
}

// Rule is one that Prometheus evaluates.
type Rule struct {
	Name, Query, Type, Health, State, LastError string
}

// Rules returns all of them, by group and in order.
func (p *Prometheus) Rules(ctx context.Context) (all []Rule, err error) {
	var data struct{ Groups []struct{ Rules []Rule } }
	err = p.get(ctx, "/api/v1/rules", &data)
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	return all, err
}

// get reads the data of an answer of its API.
func (p *Prometheus) get(ctx context.Context, target string, data any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+target, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Data          any `json:"data"`
		Status, Error string
	}{Data: data}
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err == nil && answer.Status != "success" {
		err = fmt.Errorf("%s: %s", resp.Status, answer.Error)
	}
	return err
}

// CheckRules has promtool check, and test, rules: each file is one of tests.
func CheckRules(ctx context.Context, tests ...string) error {
	path, err := System("promtool", "prometheus")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "promtool")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	out, err := Command{Path: path, Args: append([]string{"test", "rules"}, tests...), Dir: dir}.Do(ctx)
	if err == nil && out.Status != 0 {
		err = fmt.Errorf("promtool: %v", out)
	}
	return err
}
