// Command kubetypes reads manifests for Kubernetes as its API server does: with the
// types of the API, and strictly, so that a key that no type has, or that is there twice,
// is an error. Pods are held to the Pod Security Standard "restricted".
//
// It prints a line for each object: its kind, a space, and its name. What it finds is
// printed as well, and then its exit status is 1.
//
// It is a module of its own, since registry-module needs nothing of Kubernetes.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(files []string, w io.Writer) error {
	if len(files) == 0 {
		return errors.New("usage: kubetypes FILE [MORE FILES]")
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	security, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	var wrong []error
	for _, name := range files {
		if err := read(name, decoder, security, w); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(wrong...)
}

func read(name string, decoder runtime.Decoder, security policy.Evaluator, w io.Writer) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	documents := yaml.NewYAMLReader(bufio.NewReader(f))
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		object, kind, err := decoder.Decode(text, nil, nil)
		if err != nil {
			return err
		}
		meta, ok := object.(metav1.Object)
		if !ok {
			return fmt.Errorf("a %s has no name", kind.Kind)
		}
		fmt.Fprintln(w, kind.Kind, meta.GetName())
		if set, ok := object.(*appsv1.StatefulSet); ok {
			if err := restricted(security, &set.Spec.Template); err != nil {
				return fmt.Errorf("%s %s: %w", kind.Kind, meta.GetName(), err)
			}
		}
	}
}

func restricted(security policy.Evaluator, pod *corev1.PodTemplateSpec) error {
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	result := policy.AggregateCheckResults(security.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec))
	if !result.Allowed {
		return errors.New("not allowed by the Pod Security Standard: " + result.ForbiddenDetail())
	}
	return nil
}
