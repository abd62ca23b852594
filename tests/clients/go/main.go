// Uses a cluster the way programs built on client-go do: typed clients that speak protobuf, shared informers, server-side
// apply, exec over WebSocket and SPDY, events, leader election, custom resources through dynamic and metadata clients,
// discovery. Says what it did, line by line, and fails at the first thing that is not as it should be.
//
// Usage: client-go KUBECONFIG IMAGE (of busybox)
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	extensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/remotecommand"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

const (
	namespace = "client-go"
	protobuf  = "application/vnd.kubernetes.protobuf"
)

// require ends the program unless what it names came true.
func require(what string, ok bool, found ...any) {
	if !ok {
		fmt.Printf("FAILED %s: %v\n", what, found)
		os.Exit(1)
	}
	fmt.Println("ok", what)
}

func must(what string, err error) {
	require(what, err == nil, err)
}

// soon waits for a condition that must come true within a minute.
func soon(ctx context.Context, what string, condition wait.ConditionWithContextFunc) {
	must(what, wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, time.Minute, true, condition))
}

type tester struct {
	ctx       context.Context
	config    *rest.Config // JSON
	protobuf  *rest.Config
	client    kubernetes.Interface // protobuf
	informers informers.SharedInformerFactory
	image     string
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	must("kubeconfig", err)
	config.QPS = -1 // no limit of its own
	spoken := rest.CopyConfig(config)
	spoken.ContentType = protobuf
	client := kubernetes.NewForConfigOrDie(spoken)
	t := &tester{
		ctx: ctx, config: config, protobuf: spoken, client: client, image: os.Args[2],
		informers: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace)),
	}
	_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must("a namespace by protobuf", err)
	t.manyInformers()
	t.objects()
	pod := t.deployment()
	t.exec(pod)
	t.watches()
	t.events(pod)
	t.leads()
	t.customResources()
	t.discovery()
	t.end()
}

func (t *tester) manyInformers() {
	f := t.informers
	f.Core().V1().Pods().Informer()
	f.Core().V1().Nodes().Informer()
	f.Core().V1().Services().Informer()
	f.Apps().V1().Deployments().Informer()
	f.Apps().V1().ReplicaSets().Informer()
	f.Apps().V1().StatefulSets().Informer()
	f.Batch().V1().Jobs().Informer()
	f.Batch().V1().CronJobs().Informer()
	f.Autoscaling().V1().HorizontalPodAutoscalers().Informer()
	f.Autoscaling().V2().HorizontalPodAutoscalers().Informer()
	f.Coordination().V1().Leases().Informer()
	f.Discovery().V1().EndpointSlices().Informer()
	f.Events().V1().Events().Informer()
	f.Networking().V1().Ingresses().Informer()
	f.Policy().V1().PodDisruptionBudgets().Informer()
	f.Rbac().V1().Roles().Informer()
	f.Storage().V1().StorageClasses().Informer()
	f.Start(t.ctx.Done())
	for kind, synced := range f.WaitForCacheSync(t.ctx.Done()) {
		require("an informer of "+kind.String(), synced)
	}
}

func (t *tester) objects() {
	ctx, maps := t.ctx, t.client.CoreV1().ConfigMaps(namespace)
	var added, updated, deleted atomic.Int32
	informer := t.informers.Core().V1().ConfigMaps().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { added.Add(1) },
		UpdateFunc: func(any, any) { updated.Add(1) },
		DeleteFunc: func(any) { deleted.Add(1) },
	})
	must("an event handler", err)
	t.informers.Start(ctx.Done())
	for i := range 50 {
		object := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("map-", i), Labels: map[string]string{"n": fmt.Sprint(i % 5)}},
			Data:       map[string]string{"k": "v"},
			BinaryData: map[string][]byte{"b": {0, 1, 255}},
		}
		if _, err := maps.Create(ctx, object, metav1.CreateOptions{}); err != nil {
			must("create", err)
		}
	}
	must("an update after a conflict", retry.RetryOnConflict(retry.DefaultRetry, func() error {
		object, err := maps.Get(ctx, "map-0", metav1.GetOptions{})
		if err != nil {
			return err
		}
		require("binary data comes back", bytes.Equal(object.BinaryData["b"], []byte{0, 1, 255}), object.BinaryData)
		object.Data["k"] = "w"
		_, err = maps.Update(ctx, object, metav1.UpdateOptions{})
		return err
	}))
	must("delete", maps.Delete(ctx, "map-1", metav1.DeleteOptions{}))
	must("deletecollection", maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "n=2"}))
	soon(ctx, "an informer sees each change", func(context.Context) (bool, error) {
		return added.Load() >= 50 && updated.Load() >= 1 && deleted.Load() == 11, nil
	})
	found, next := 0, ""
	for page := 0; page == 0 || next != ""; page++ {
		list, err := maps.List(ctx, metav1.ListOptions{Limit: 7, Continue: next, LabelSelector: "n"})
		must("a page", err)
		found, next = found+len(list.Items), list.Continue
	}
	require("pages show everything", found == 39, found)
	_, err = maps.Patch(ctx, "map-0", types.StrategicMergePatchType, []byte(`{"data":{"a":"1"}}`), metav1.PatchOptions{})
	must("a strategic merge patch", err)
	patch := `[{"op":"test","path":"/data/a","value":"1"},{"op":"replace","path":"/data/a","value":"2"}]`
	_, err = maps.Patch(ctx, "map-0", types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
	must("a JSON patch", err)
	_, err = t.client.AppsV1().StatefulSets(namespace).Create(ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "set"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To[int32](0),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "set"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "set"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: t.image}}},
			},
		},
	}, metav1.CreateOptions{})
	must("a StatefulSet by protobuf", err)
}

// deployment applies a Deployment, scales it and returns one of its pods.
func (t *tester) deployment() *corev1.Pod {
	ctx, deployments := t.ctx, t.client.AppsV1().Deployments(namespace)
	label := map[string]string{"app": "web"}
	container := coreapply.Container().WithName("main").WithImage(t.image).WithCommand("sh", "-c", "echo up; sleep 3600")
	applied, err := deployments.Apply(ctx, appsapply.Deployment("web", namespace).WithSpec(appsapply.DeploymentSpec().
		WithReplicas(1).WithSelector(metaapply.LabelSelector().WithMatchLabels(label)).
		WithTemplate(coreapply.PodTemplateSpec().WithLabels(label).
			WithSpec(coreapply.PodSpec().WithTerminationGracePeriodSeconds(0).WithContainers(container)))),
		metav1.ApplyOptions{FieldManager: "tester"})
	must("server-side apply", err)
	mine, err := appsapply.ExtractDeployment(applied, "tester")
	must("managed fields say what was applied", err)
	require("no more and no less", *mine.Spec.Replicas == 1 && len(mine.Spec.Template.Spec.Containers) == 1 && mine.Spec.Strategy == nil)
	more := appsapply.Deployment("web", namespace).WithSpec(appsapply.DeploymentSpec().WithReplicas(3))
	_, err = deployments.Apply(ctx, more, metav1.ApplyOptions{FieldManager: "other"})
	require("another manager's change conflicts", errors.IsConflict(err) && strings.Contains(err.Error(), `conflict with "tester"`), err)
	must("scaling by protobuf", retry.RetryOnConflict(retry.DefaultRetry, func() error {
		scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		scale.Spec.Replicas = 2
		_, err = deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{})
		return err
	}))
	soon(ctx, "an informer sees the Deployment become available", func(context.Context) (bool, error) {
		found, err := t.informers.Apps().V1().Deployments().Lister().Deployments(namespace).Get("web")
		return err == nil && found.Status.AvailableReplicas == 2, nil
	})
	pods, err := t.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web", FieldSelector: "status.phase=Running"})
	must("pods by label and phase", err)
	require("there are two", len(pods.Items) == 2, len(pods.Items))
	logs, err := t.client.CoreV1().Pods(namespace).GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{}).DoRaw(ctx)
	require("logs", err == nil && string(logs) == "up\n", err, string(logs))
	return &pods.Items[0]
}

func (t *tester) exec(pod *corev1.Pod) {
	url := t.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Command: []string{"sh", "-c", "cat; echo problem >&2; exit 3"}, Stdin: true, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec).URL()
	socket, err := remotecommand.NewWebSocketExecutor(t.config, "GET", url.String())
	must("an executor", err)
	spdy, err := remotecommand.NewSPDYExecutor(t.config, "POST", url)
	must("an old executor", err)
	for name, executor := range map[string]remotecommand.Executor{"WebSocket": socket, "SPDY": spdy} {
		var out, problems bytes.Buffer
		err = executor.StreamWithContext(t.ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &problems})
		ok := err != nil && strings.Contains(err.Error(), "exit code 3") && out.String() == "hello" && problems.String() == "problem\n"
		require("exec over "+name, ok, err, out.String(), problems.String())
	}
}

func (t *tester) watches() {
	go func() {
		time.Sleep(100 * time.Millisecond)
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}
		_, _ = t.client.CoreV1().ConfigMaps(namespace).Create(t.ctx, object, metav1.CreateOptions{})
	}()
	source := cache.NewListWatchFromClient(t.client.CoreV1().RESTClient(), "configmaps", namespace, fields.Everything())
	_, err := watchtools.UntilWithSync(t.ctx, source, &corev1.ConfigMap{}, nil, func(event watch.Event) (bool, error) {
		object, ok := event.Object.(*corev1.ConfigMap)
		return ok && object.Name == "late", nil
	})
	must("a watch until something happens", err)
}

func (t *tester) events(pod *corev1.Pod) {
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: t.client.CoreV1().Events(namespace)})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "tester"})
	for range 3 {
		recorder.Event(pod, corev1.EventTypeNormal, "Tested", "again")
	}
	soon(t.ctx, "events are counted", func(context.Context) (bool, error) {
		list, err := t.client.CoreV1().Events(namespace).List(t.ctx, metav1.ListOptions{FieldSelector: "reason=Tested,involvedObject.kind=Pod"})
		return err == nil && len(list.Items) == 1 && list.Items[0].Count == 3, nil
	})
}

func (t *tester) leads() {
	ctx, cancel := context.WithCancel(t.ctx)
	led := make(chan struct{})
	stopped := make(chan struct{})
	go leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: "leader", Namespace: namespace},
			Client:     t.client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: "tester"},
		},
		LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(led) },
			OnStoppedLeading: func() { close(stopped) },
		},
	})
	<-led
	require("becomes leader", true)
	time.Sleep(100 * time.Millisecond) // between two renewals
	cancel()
	<-stopped
	lease, err := t.client.CoordinationV1().Leases(namespace).Get(t.ctx, "leader", metav1.GetOptions{})
	require("and lets go", err == nil && *lease.Spec.HolderIdentity == "", err)
}

func (t *tester) customResources() {
	ctx := t.ctx
	doors := schema.GroupVersionResource{Group: "test.example.com", Version: "v1", Resource: "doors"}
	definitions := extensions.NewForConfigOrDie(t.protobuf).ApiextensionsV1().CustomResourceDefinitions()
	property := func(name string, of extensionsv1.JSONSchemaProps) extensionsv1.JSONSchemaProps {
		return extensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]extensionsv1.JSONSchemaProps{name: of}}
	}
	width := extensionsv1.JSONSchemaProps{Type: "integer", Minimum: ptr.To(1.0), Default: &extensionsv1.JSON{Raw: []byte("80")}}
	form := property("spec", property("width", width))
	form.Properties["status"] = property("open", extensionsv1.JSONSchemaProps{Type: "boolean"})
	definition := &extensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "doors.test.example.com"},
		Spec: extensionsv1.CustomResourceDefinitionSpec{
			Group: doors.Group,
			Scope: extensionsv1.NamespaceScoped,
			Names: extensionsv1.CustomResourceDefinitionNames{Plural: "doors", Singular: "door", Kind: "Door", ListKind: "DoorList"},
			Versions: []extensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Subresources: &extensionsv1.CustomResourceSubresources{Status: &extensionsv1.CustomResourceSubresourceStatus{}},
				Schema:       &extensionsv1.CustomResourceValidation{OpenAPIV3Schema: &form},
			}},
		},
	}
	_, err := definitions.Create(ctx, definition, metav1.CreateOptions{})
	must("a CustomResourceDefinition by protobuf", err)
	soon(ctx, "it is established", func(context.Context) (bool, error) {
		found, err := definitions.Get(ctx, definition.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range found.Status.Conditions {
			if condition.Type == extensionsv1.Established && condition.Status == extensionsv1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	var seen atomic.Int32
	client := dynamic.NewForConfigOrDie(t.config)
	dynamicInformers := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, namespace, nil)
	_, err = dynamicInformers.ForResource(doors).Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { seen.Add(1) }, UpdateFunc: func(any, any) { seen.Add(1) },
	})
	must("a dynamic informer", err)
	dynamicInformers.Start(ctx.Done())
	dynamicInformers.WaitForCacheSync(ctx.Done())
	metadataInformers := metadatainformer.NewFilteredSharedInformerFactory(metadata.NewForConfigOrDie(t.protobuf), 0, namespace, nil)
	metadataInformers.ForResource(doors).Informer()
	pods := metadataInformers.ForResource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Lister()
	metadataInformers.Start(ctx.Done())
	metadataInformers.WaitForCacheSync(ctx.Done())
	known, err := pods.ByNamespace(namespace).List(labels.Everything())
	require("metadata of pods by protobuf", err == nil && len(known) == 2, err, len(known))

	objects := client.Resource(doors).Namespace(namespace)
	door, err := objects.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "test.example.com/v1", "kind": "Door", "metadata": map[string]any{"name": "front"}, "spec": map[string]any{},
	}}, metav1.CreateOptions{})
	must("a custom resource", err)
	wide, _, _ := unstructured.NestedInt64(door.Object, "spec", "width")
	require("its schema's default", wide == 80, wide)
	must("a field", unstructured.SetNestedField(door.Object, true, "status", "open"))
	_, err = objects.UpdateStatus(ctx, door, metav1.UpdateOptions{})
	must("its status", err)
	_, err = objects.Update(ctx, door, metav1.UpdateOptions{})
	require("an update of what has changed conflicts", errors.IsConflict(err), err)
	_, err = objects.Patch(ctx, "front", types.MergePatchType, []byte(`{"spec":{"width":0}}`), metav1.PatchOptions{})
	require("what the schema forbids is refused", errors.IsInvalid(err) && strings.Contains(err.Error(), "should be greater than or equal to 1"), err)
	soon(ctx, "the informer sees it", func(context.Context) (bool, error) { return seen.Load() >= 2, nil })
	must("the end of its kind", definitions.Delete(ctx, definition.Name, metav1.DeleteOptions{}))
}

func (t *tester) discovery() {
	client := t.client.Discovery()
	groups, resources, err := client.ServerGroupsAndResources()
	require("groups and resources", err == nil && len(groups) > 15 && len(resources) > 15, err, len(groups), len(resources))
	preferred, err := client.ServerPreferredResources()
	require("preferred resources", err == nil && len(preferred) > 15, err, len(preferred))
	_, err = client.OpenAPISchema()
	must("OpenAPI v2 by protobuf", err)
	paths, err := client.OpenAPIV3().Paths()
	require("OpenAPI v3", err == nil && len(paths) > 15, err, len(paths))
	version, err := client.ServerVersion()
	require("version", err == nil && strings.HasPrefix(version.GitVersion, "v1.36"), err)
}

func (t *tester) end() {
	must("the end of the namespace", t.client.CoreV1().Namespaces().Delete(t.ctx, namespace, metav1.DeleteOptions{}))
	soon(t.ctx, "and of all in it", func(context.Context) (bool, error) {
		_, err := t.client.CoreV1().Namespaces().Get(t.ctx, namespace, metav1.GetOptions{})
		return errors.IsNotFound(err), nil
	})
}
