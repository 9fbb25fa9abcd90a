package deployment

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// good is a manifest with all that a manifest can have.
const good = `{
  "$schema": "x",
  "modulesContent": {
    "$edgeAgent": {"properties.desired": {
      "schemaVersion": "1.1",
      "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25", "loggingOptions": "",
        "registryCredentials": {"up": {"username": "u", "password": "p", "address": "$upstream:8000"}}}},
      "systemModules": {
        "edgeAgent": {"type": "docker", "settings": {"image": "mcr.microsoft.com/azureiotedge-agent:1.5", "createOptions": ""},
          "env": {"A": {"value": "x"}, "B": {"value": 1}, "C": {"value": true}}, "imagePullPolicy": "on-create"},
        "edgeHub": {"type": "docker", "status": "running", "restartPolicy": "always", "startupOrder": 0,
          "settings": {"image": "$upstream:8000/azureiotedge-hub:1.5",
            "createOptions": "{\"HostConfig\":{\"PortBindings\":{\"443/tcp\":[{\"HostPort\":\"443\"}]}}}"}}
      },
      "modules": {
        "app": {"version": "1.0", "type": "docker", "status": "stopped", "restartPolicy": "on-unhealthy", "imagePullPolicy": "never",
          "startupOrder": 4294967295,
          "settings": {"image": "r.example:5000/team/app@sha256:00", "createOptions": "{\"HostConfig\":{\"PortBindings\":{\"43",
            "createOptions01": "/udp\":[{\"HostPort\":\"443\"}],\"1/tcp\":[{}],\"2/tcp\":null}}}"}}
      }
    }},
    "$edgeHub": {"properties.desired": {
      "schemaVersion": "1.1",
      "routes": {"a": "FROM /messages/* INTO $upstream",
        "b": {"route": "FROM /messages/modules/app/outputs/* WHERE x = 'INTO y' INTO BrokeredEndpoint(\"/modules/app/inputs/i\")", "priority": 9, "timeToLiveSecs": 0}},
      "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}
    }},
    "app": {"properties.desired": {"SendData": true, "List": [1, "two"], "One": {"Two": null}}}
  }
}`

// layeredGood is a layered deployment.
const layeredGood = `{"content": {"modulesContent": {
  "$edgeAgent": {
    "properties.desired.modules.app": {"type": "docker", "status": "running", "restartPolicy": "always", "settings": {"image": "a:1"}},
    "properties.desired.runtime.settings.registryCredentials.up": {"username": "u", "password": "p", "address": "a"}},
  "$edgeHub": {"properties.desired.routes.r": "FROM /* INTO $upstream"},
  "app": {"properties.desired.Sub": {"A": 1}}
}}}`

func TestValidateAccepts(t *testing.T) {
	for name, text := range map[string]string{
		"full": good, "layered": layeredGood, "with a byte order mark": "\xef\xbb\xbf" + good,
		"a twin only": `{"modulesContent": {"app": {"properties.desired": {}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if problems := Validate([]byte(text)); len(problems) > 0 {
				t.Error(problems)
			}
		})
	}
}

// TestValidate replaces one text in a good manifest by another one, and wants one problem.
func TestValidate(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 11) + "1" + strings.Repeat("}", 11)
	app := `"app": {"version": "1.0", `
	for name, tt := range map[string]struct{ old, new, path, want string }{
		"no agent":               {`"$edgeAgent": {`, `"other": {`, "$edgeAgent", "is missing"},
		"no hub":                 {`"$edgeHub": {`, `"other": {`, "$edgeHub", "is missing"},
		"unknown at the root":    {`"$schema"`, `"schema"`, "schema", "not known"},
		"unknown in the agent":   {`"runtime": {"type"`, `"more": 1, "runtime": {"type"`, "$edgeAgent.more", "not known here: there can be schemaVersion"},
		"agent's version":        {`"schemaVersion": "1.1",` + "\n      \"runtime\"", `"schemaVersion": "2.0",` + "\n      \"runtime\"", "$edgeAgent.schemaVersion", "write 1.1"},
		"version without order":  {`"schemaVersion": "1.1",` + "\n      \"runtime\"", `"schemaVersion": "1.0",` + "\n      \"runtime\"", "$edgeAgent.schemaVersion", "no startupOrder"},
		"version as a number":    {`"schemaVersion": "1.1",` + "\n      \"routes\"", `"schemaVersion": 1.1,` + "\n      \"routes\"", "$edgeHub.schemaVersion", "a number: write text"},
		"runtime":                {`"runtime": {"type": "docker"`, `"runtime": {"type": "podman"`, "$edgeAgent.runtime.type", "none of docker"},
		"no settings":            {`"settings": {"minDockerVersion"`, `"setings": {"minDockerVersion"`, "$edgeAgent.runtime.settings", "is missing"},
		"credential's name":      {`"up": {`, `"a.b": {`, "$edgeAgent.runtime.settings.registryCredentials.a.b", "leave out '.'"},
		"no password":            {`"password": "p", `, ``, "$edgeAgent.runtime.settings.registryCredentials.up.password", "is missing"},
		"address is a URL":       {`"$upstream:8000"}`, `"https://a"}`, "$edgeAgent.runtime.settings.registryCredentials.up.address", "without https://"},
		"address without port":   {`"$upstream:8000"}`, `"$upstream"}`, "$edgeAgent.runtime.settings.registryCredentials.up.address", "write $upstream:8000"},
		"address is empty":       {`"$upstream:8000"}`, `""}`, "$edgeAgent.runtime.settings.registryCredentials.up.address", "is empty"},
		"no edgeHub":             {`"edgeHub": {"type"`, `"edgeHug": {"type"`, "$edgeAgent.systemModules.edgeHub", "is missing"},
		"agent has a status":     {`"edgeAgent": {"type": "docker", `, `"edgeAgent": {"type": "docker", "status": "running", `, "$edgeAgent.systemModules.edgeAgent.status", "not known"},
		"hub without a status":   {`"status": "running", "restartPolicy": "always", "startupOrder": 0`, `"restartPolicy": "always", "startupOrder": 0`, "$edgeAgent.systemModules.edgeHub.status", "is missing"},
		"name of a module":       {app, `"a b": {"version": "1.0", `, "$edgeAgent.modules.a b", "is no name of a module"},
		"name of a twin":         {`"app": {"properties.desired"`, `"a+b": {"properties.desired"`, "modulesContent.a+b", "is no name of a module"},
		"status":                 {`"stopped"`, `"paused"`, "$edgeAgent.modules.app.status", "running, stopped"},
		"restartPolicy":          {`"on-unhealthy"`, `"sometimes"`, "$edgeAgent.modules.app.restartPolicy", "on-failure"},
		"imagePullPolicy":        {`"never"`, `"always"`, "$edgeAgent.modules.app.imagePullPolicy", "on-create"},
		"startupOrder too high":  {`4294967295`, `4294967296`, "$edgeAgent.modules.app.startupOrder", "whole number"},
		"startupOrder a text":    {`4294967295`, `"1"`, "$edgeAgent.modules.app.startupOrder", "whole number"},
		"env without value":      {`{"value": "x"}`, `{"valeu": "x"}`, "$edgeAgent.systemModules.edgeAgent.env.A.value", "is missing"},
		"env is plain":           {`{"value": "x"}`, `"x"`, "$edgeAgent.systemModules.edgeAgent.env.A", "write an object"},
		"env has a list":         {`{"value": 1}`, `{"value": []}`, "$edgeAgent.systemModules.edgeAgent.env.B.value", "a list"},
		"env's name":             {`"A": {"value"`, `"A#": {"value"`, "$edgeAgent.systemModules.edgeAgent.env.A#", "no name of a variable"},
		"no image":               {`"image": "r.example:5000/team/app@sha256:00", `, ``, "$edgeAgent.modules.app.settings.image", "is missing"},
		"image is empty":         {`r.example:5000/team/app@sha256:00`, ` `, "$edgeAgent.modules.app.settings.image", "is empty"},
		"image is a number":      {`"r.example:5000/team/app@sha256:00"`, `1`, "$edgeAgent.modules.app.settings.image", "write text"},
		"image's form":           {`r.example:5000/team/app@sha256:00`, `a/b:`, "$edgeAgent.modules.app.settings.image", "not in the form"},
		"$upstream without port": {`$upstream:8000/azure`, `$upstream/azure`, "$edgeAgent.systemModules.edgeHub.settings.image", "with the port behind it"},
		"another variable":       {`r.example:5000/team/app@sha256:00`, `$parent/a:1`, "$edgeAgent.modules.app.settings.image", "only $upstream"},
		"options are no JSON":    {`"{\"HostConfig\":{\"PortBindings\":{\"43"`, `"{\"HostConfig\":{\"PortBindings\"{\"43"`, "$edgeAgent.modules.app.settings.createOptions", "put together, they cannot be read"},
		"options are a list":     {`"createOptions": ""`, `"createOptions": "[]"`, "$edgeAgent.systemModules.edgeAgent.settings.createOptions", "they are a list"},
		"options are an object":  {`"createOptions": ""`, `"createOptions": {}`, "$edgeAgent.systemModules.edgeAgent.settings.createOptions", "is an object: write text"},
		"ports of another form":  {`"createOptions": ""`, `"createOptions": "{\"HostConfig\":{\"PortBindings\":[]}}"`, "$edgeAgent.systemModules.edgeAgent.settings.createOptions", "PortBindings"},
		"a part is missing":      {`"createOptions01"`, `"createOptions02"`, "$edgeAgent.modules.app.settings.createOptions01", "without gaps"},
		"the first is missing":   {`"createOptions": "{\"HostConfig\":{\"PortBindings\":{\"43"`, `"createOptions02": "{\"HostConfig\":{\"PortBindings\":{\"43"`, "$edgeAgent.modules.app.settings.createOptions", "without gaps"},
		"a part too many":        {`"createOptions01"`, `"createOptions08"`, "$edgeAgent.modules.app.settings.createOptions08", "to createOptions07"},
		"a part by one digit":    {`"createOptions01"`, `"createOptions1"`, "$edgeAgent.modules.app.settings.createOptions1", "no part"},
		"a part is too long":     {`"createOptions": ""`, `"createOptions": "` + strings.Repeat(" ", 513) + `"`, "$edgeAgent.systemModules.edgeAgent.settings.createOptions", "has 513 characters"},
		"a setting is unknown":   {`"createOptions": ""`, `"options": ""`, "$edgeAgent.systemModules.edgeAgent.settings.options", "not known"},
		"port taken twice":       {`"/udp\":`, `"/tcp\":[],\"443/tcp\":`, "$edgeAgent.modules.app.settings.createOptions", "port 443 of the host is that of edgeHub, too"},
		"hub's version":          {`"schemaVersion": "1.1",` + "\n      \"routes\"", `"schemaVersion": "1.0",` + "\n      \"routes\"", "$edgeHub.routes.b", "schemaVersion 1.0 does not have"},
		"no routes":              {`"routes": {"a"`, `"roots": {"a"`, "$edgeHub.routes", "is missing"},
		"name of a route":        {`"a": "FROM`, `"a$": "FROM`, "$edgeHub.routes.a$", "leave out '.'"},
		"priority":               {`"priority": 9`, `"priority": 10`, "$edgeHub.routes.b.priority", "from 0 to 9"},
		"route":                  {`"FROM /messages/* INTO $upstream"`, `"FROM /messages/* TO $upstream"`, "$edgeHub.routes.a", "is no route"},
		"storing":                {`"timeToLiveSecs": 7200`, `"timeToLiveSecs": -1`, "$edgeHub.storeAndForwardConfiguration.timeToLiveSecs", "whole number"},
		"a twin without desired": {`"app": {"properties.desired": {`, `"app": {"properties.reported": {`, "app.properties.reported", "write properties.desired"},
		"a twin is empty":        {`"app": {"properties.desired": {"SendData": true, "List": [1, "two"], "One": {"Two": null}}}`, `"app": {}`, "app", "has no properties.desired"},
		"a twin's key":           {`"SendData"`, `"Send Data"`, "app.properties.desired.Send Data", "leave out '.', '$' and spaces"},
		"a twin's control key":   {`"SendData"`, `"Send\u0085Data"`, "app.properties.desired.Send\u0085Data", "control character"},
		"a twin's long key":      {`"SendData"`, `"` + strings.Repeat("k", 1025) + `"`, "app.properties.desired." + strings.Repeat("k", 80) + "...", "more than 1 KB"},
		"a twin's long text":     {`"two"`, `"` + strings.Repeat("ü", 2049) + `"`, "app.properties.desired.List", "has 4098 bytes"},
		"a twin's number":        {`"SendData": true`, `"SendData": 4503599627370496`, "app.properties.desired.SendData", "write it as text"},
		"a twin's depth":         {`"SendData": true`, `"SendData": ` + deep, "app.properties.desired.SendData" + strings.Repeat(".a", 10), "more than 10 levels"},
		"a twin's size":          {`"SendData": true`, `"SendData": [` + strings.Repeat(`"`+strings.Repeat("a", 4096)+`",`, 8) + `1]`, "app.properties.desired", "IoT Hub takes 32768"},
		"a key twice":            {`"SendData": true`, `"SendData": true, "SendData": false`, "app.properties.desired.SendData", "twice"},
		"env too large":          {`{"value": "x"}`, `{"value": "` + strings.Repeat("a", 4097) + `"}`, "$edgeAgent.systemModules.edgeAgent.env.A.value", "has 4097 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(good, tt.old) != 1 {
				t.Fatalf("%q is %d times in the manifest", tt.old, strings.Count(good, tt.old))
			}
			text := strings.Replace(good, tt.old, tt.new, 1)
			if !json.Valid([]byte(text)) {
				t.Fatal("the test makes no JSON")
			}
			problems := Validate([]byte(text))
			for _, p := range problems {
				if p.Path == tt.path && strings.Contains(p.Text, tt.want) {
					return
				}
			}
			t.Errorf("got %q, want %s: %s", problems, tt.path, tt.want)
		})
	}
}

func TestValidateLayered(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, path, want string }{
		"mixed":              {`"properties.desired.modules.app": {`, `"properties.desired": {}, "properties.desired.modules.app": {`, "$edgeAgent.properties.desired", "write all of it as paths"},
		"mixed hub":          {`"$edgeHub": {`, `"$edgeHub": {"properties.desired": {}, `, "$edgeHub.properties.desired", "write all of it as paths"},
		"a system module":    {`"properties.desired.modules.app"`, `"properties.desired.systemModules.edgeHub"`, "$edgeAgent.properties.desired.systemModules.edgeHub", "base deployment"},
		"a module":           {`"restartPolicy": "always", `, ``, "$edgeAgent.properties.desired.modules.app.restartPolicy", "is missing"},
		"a module's name":    {`desired.modules.app"`, `desired.modules.a.b"`, "$edgeAgent.properties.desired.modules.a.b", "no name of a module"},
		"a credential":       {`"password": "p", `, ``, "$edgeAgent.properties.desired.runtime.settings.registryCredentials.up.password", "is missing"},
		"a route":            {`INTO $upstream`, `INTO upstream`, "$edgeHub.properties.desired.routes.r", "is no route"},
		"another key":        {`"properties.desired.modules.app"`, `"modules.app"`, "$edgeAgent.modules.app", "write properties.desired.modules.NAME"},
		"a twin's key":       {`"A": 1`, `"A.B": 1`, "app.properties.desired.Sub.A.B", "leave out"},
		"beside the content": {`{"content"`, `{"more": 1, "content"`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(layeredGood, tt.old) != 1 {
				t.Fatalf("%q is %d times in the manifest", tt.old, strings.Count(layeredGood, tt.old))
			}
			problems := Validate([]byte(strings.Replace(layeredGood, tt.old, tt.new, 1)))
			if tt.path == "" && len(problems) == 0 {
				return // an export has an id and the like
			}
			for _, p := range problems {
				if p.Path == tt.path && strings.Contains(p.Text, tt.want) {
					return
				}
			}
			t.Errorf("got %q, want %s: %s", problems, tt.path, tt.want)
		})
	}
}

func TestValidateText(t *testing.T) {
	var many strings.Builder
	for i := range 51 {
		fmt.Fprintf(&many, `,"m%d": {"properties.desired": {}}`, i)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"empty":            {"", "no JSON"},
		"cut off":          {good[:200], "line 6: it is no JSON: unexpected EOF"},
		"a comment":        {strings.Replace(good, "{", "{ // hello", 1), "line 1: it is no JSON"},
		"no UTF-8":         {strings.Replace(good, "v1.25", "\xff", 1), "not in UTF-8"},
		"two documents":    {good + good, "something behind its end"},
		"a list":           {"[]", "it is a list: write an object"},
		"no content":       {"{}", "modulesContent: is missing"},
		"content is a key": {`{"modulesContent": 1}`, "modulesContent: is a number: write an object"},
		"too large":        {strings.Repeat(" ", maxManifest) + good, "larger than 2 MiB"},
		"too deep":         {strings.Repeat("[", 100), "more than 64 deep"},
		"too many modules": {strings.Replace(good, `"app": {"properties.desired": {"SendData": true, "List": [1, "two"], "One": {"Two": null}}}`, many.String()[1:], 1), "there are 53 modules"},
	} {
		t.Run(name, func(t *testing.T) {
			problems := Validate([]byte(tt.text))
			if len(problems) != 1 || !strings.Contains(problems[0].String(), tt.want) {
				t.Errorf("got %q, want %s", problems, tt.want)
			}
		})
	}
	// What is wrong everywhere is told to some extent.
	var keys strings.Builder
	for i := range 500 {
		fmt.Fprintf(&keys, `"a.%d": 1, `, i)
	}
	wrong := strings.Replace(good, `"SendData": true`, keys.String()+`"SendData": true`, 1)
	if problems := Validate([]byte(wrong)); len(problems) != maxProblems || !strings.Contains(problems[maxProblems-1].Text, "there is more") {
		t.Errorf("%d problems, the last one %v", len(problems), problems[len(problems)-1])
	}
}

// TestValidateTellsNoSecrets has secrets where something else belongs.
func TestValidateTellsNoSecrets(t *testing.T) {
	const secret = "hunter2"
	for _, change := range [][2]string{
		{`"password": "p"`, `"password": ["hunter2"]`}, {`"address": "$upstream:8000"`, `"address": "https://u:hunter2@a"`},
		{`{"value": "x"}`, `"hunter2"`}, {`"createOptions": ""`, `"createOptions": "hunter2"`}, {`"stopped"`, `"hunter2"`},
	} {
		problems := Validate([]byte(strings.Replace(good, change[0], change[1], 1)))
		if len(problems) == 0 || strings.Contains(fmt.Sprint(problems), secret) {
			t.Errorf("%s: %q", change[1], problems)
		}
	}
}

func TestRoutes(t *testing.T) {
	for route, want := range map[string]bool{
		`FROM /* INTO $upstream`:                                                                                  true,
		`SELECT * FROM /messages/* INTO $upstream`:                                                                true,
		`from /messages/modules/a/outputs/* into $upstream`:                                                       true,
		`FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream`:                               true,
		`FROM /messages/* WHERE a = 'FROM' INTO BrokeredEndpoint("/modules/a/inputs/b")`:                          true,
		`FROM /messages/modules/a/outputs/o WHERE temperature >= 21 INTO BrokeredEndpoint('/modules/a/inputs/b')`: true,
		``:                                  false,
		`FROM INTO $upstream`:               false,
		`FROM /messages/*`:                  false,
		`FROM messages INTO $upstream`:      false,
		`FROM /messages/* INTO`:             false,
		`FROM /messages/* INTO $downstream`: false,
		`FROM /messages/* INTO BrokeredEndpoint("/a")`:          false,
		`FROM /messages/* INTO Brokered("/modules/a/inputs/b")`: false,
		`FROM /messages/* WHERE INTO $upstream`:                 false,
		`FROM /messages/* WHERE 'INTO $upstream'`:               false,
		`SELECT a FROM /messages/* INTO $upstream`:              false,
	} {
		if got := isRoute(route); got != want {
			t.Errorf("%q: %v", route, got)
		}
	}
}

func FuzzValidate(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(layeredGood))
	f.Add([]byte(`{"modulesContent":{"$edgeAgent":{"properties.desired":null}}}`))
	f.Add([]byte(`{"modulesContent":{"$edgeAgent":{"properties.desired.modules.a":{"settings":{"createOptions":"null","createOptions01":1}}}}}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		problems := Validate(manifest)
		if len(problems) > maxProblems {
			t.Fatalf("%d problems", len(problems))
		}
		if len(problems) > 0 {
			return
		}
		var m struct {
			ModulesContent map[string]map[string]any
			Content        struct{ ModulesContent map[string]map[string]any }
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(string(manifest), "\xef\xbb\xbf")), &m); err != nil {
			t.Fatalf("accepted, but %v", err)
		}
		if m.ModulesContent == nil && m.Content.ModulesContent == nil {
			t.Fatal("accepted without modulesContent")
		}
	})
}
