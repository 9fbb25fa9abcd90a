package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"registry-module/e2e/lab"
)

// zotVersion is that of the module in e2e/zot.
const zotVersion = "1.4.3"

// startZot starts zot in a directory, with an upstream that it fetches images from when
// they are asked for.
func startZot(ctx context.Context, binary, dir, upstream string) (*lab.Process, string, error) {
	addr, err := lab.FreeAddr()
	if err != nil {
		return nil, "", err
	}
	config, err := zotConfig(addr, filepath.Join(dir, "data"), upstream)
	if err != nil {
		return nil, "", fmt.Errorf("starting zot: %w", err)
	}
	path := filepath.Join(dir, "zot.json")
	if err := os.WriteFile(path, config, 0o644); err != nil {
		return nil, "", fmt.Errorf("starting zot: %w", err)
	}
	url := "http://" + addr
	p, err := lab.Start(ctx, lab.Spec{
		Name: zot, Path: binary, Args: []string{"serve", path}, Dir: dir,
		Ready: lab.AnswersHTTP(url+"/v2/", http.StatusOK),
	})
	return p, url, err
}

// zotConfig is its configuration, with the settings that it comes with where there is no
// need for others.
func zotConfig(addr, data, upstream string) ([]byte, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"distSpecVersion": "1.0.1-dev",
		"storage":         map[string]any{"rootDirectory": data},
		"http":            map[string]any{"address": host, "port": port},
		"log":             map[string]any{"level": "error"},
		"extensions": map[string]any{"sync": map[string]any{
			"enable": true,
			"registries": []any{map[string]any{
				"urls":      []string{upstream},
				"onDemand":  true,
				"tlsVerify": false,
				"content":   []any{map[string]any{"prefix": "**"}},
			}},
		}},
	})
}
