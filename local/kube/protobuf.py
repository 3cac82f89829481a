"""Request bodies in Kubernetes' protobuf encoding, for the kinds that kubectl sends so.

`kubectl create namespace`, `create secret`, `create token`, `auth can-i` and their like speak protobuf and have no
fallback. Their bodies are small and of few kinds, so a table of field numbers (k8s.io/api, generated.proto) is enough; a
field that is not in the table is refused by name instead of being dropped.

The envelope is `k8s\\0` followed by runtime.Unknown{typeMeta=1{apiVersion=1, kind=2}, raw=2}.
"""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

_MAGIC = b"k8s\0"


class ProtobufError(ValueError):
    """The bytes are no Kubernetes protobuf object, or one that this table does not cover; the message says which."""


# One line per message: `<number>:<field>:<type>`. Types: string, bytes, int, bool, a message; `[]` repeated, `{}` a map to
# the type, `?` a pointer in Go, whose zero value is a value. Without `?` a zero value means "not set".
_MESSAGES = {
    "ObjectMeta": "1:name:string 2:generateName:string 3:namespace:string 4:selfLink:string 5:uid:string "
    "6:resourceVersion:string 7:generation:int 8:creationTimestamp:Time 9:deletionTimestamp:Time "
    "10:deletionGracePeriodSeconds:?int 11:labels:{}string 12:annotations:{}string 13:ownerReferences:[]OwnerReference "
    "14:finalizers:[]string",
    "OwnerReference": "1:kind:string 3:name:string 4:uid:string 5:apiVersion:string 6:controller:?bool "
    "7:blockOwnerDeletion:?bool",
    "Time": "1:seconds:int 2:nanos:int",
    "LabelSelector": "1:matchLabels:{}string 2:matchExpressions:[]LabelSelectorRequirement",
    "LabelSelectorRequirement": "1:key:string 2:operator:string 3:values:[]string",
    "IntOrString": "1:type:int 2:intVal:int 3:strVal:string",
    "Preconditions": "1:uid:?string 2:resourceVersion:?string",
    "DeleteOptions": "1:gracePeriodSeconds:?int 2:preconditions:Preconditions 3:orphanDependents:?bool "
    "4:propagationPolicy:?string 5:dryRun:[]string",
    "Namespace": "1:metadata:ObjectMeta 2:spec:NamespaceSpec 3:status:NamespaceStatus",
    "NamespaceSpec": "1:finalizers:[]string",
    "NamespaceStatus": "1:phase:string",
    "ConfigMap": "1:metadata:ObjectMeta 2:data:{}string 3:binaryData:{}bytes 4:immutable:?bool",
    "Secret": "1:metadata:ObjectMeta 2:data:{}bytes 3:type:string 4:stringData:{}string 5:immutable:?bool",
    "ServiceAccount": "1:metadata:ObjectMeta 2:secrets:[]ObjectReference 3:imagePullSecrets:[]LocalObjectReference "
    "4:automountServiceAccountToken:?bool",
    "ObjectReference": "1:kind:string 2:namespace:string 3:name:string 4:uid:string 5:apiVersion:string "
    "6:resourceVersion:string 7:fieldPath:string",
    "LocalObjectReference": "1:name:string",
    "Service": "1:metadata:ObjectMeta 2:spec:ServiceSpec 3:status:ServiceStatus",
    "ServiceStatus": "1:loadBalancer:LoadBalancerStatus",
    "LoadBalancerStatus": "",
    "ServiceSpec": "1:ports:[]ServicePort 2:selector:{}string 3:clusterIP:string 4:type:string 5:externalIPs:[]string "
    "7:sessionAffinity:string 8:loadBalancerIP:string 9:loadBalancerSourceRanges:[]string 10:externalName:string "
    "11:externalTrafficPolicy:string 12:healthCheckNodePort:int 13:publishNotReadyAddresses:bool 18:clusterIPs:[]string",
    "ServicePort": "1:name:string 2:protocol:string 3:port:int 4:targetPort:IntOrString 5:nodePort:int 6:appProtocol:?string",
    "Role": "1:metadata:ObjectMeta 2:rules:[]PolicyRule",
    "ClusterRole": "1:metadata:ObjectMeta 2:rules:[]PolicyRule 3:aggregationRule:AggregationRule",
    "AggregationRule": "1:clusterRoleSelectors:[]LabelSelector",
    "PolicyRule": "1:verbs:[]string 2:apiGroups:[]string 3:resources:[]string 4:resourceNames:[]string "
    "5:nonResourceURLs:[]string",
    "RoleBinding": "1:metadata:ObjectMeta 2:subjects:[]Subject 3:roleRef:RoleRef",
    "ClusterRoleBinding": "1:metadata:ObjectMeta 2:subjects:[]Subject 3:roleRef:RoleRef",
    "Subject": "1:kind:string 2:apiGroup:string 3:name:string 4:namespace:string",
    "RoleRef": "1:apiGroup:string 2:kind:string 3:name:string",
    "Deployment": "1:metadata:ObjectMeta 2:spec:DeploymentSpec 3:status:DeploymentStatus",
    "DeploymentStatus": "1:observedGeneration:int 2:replicas:int 3:updatedReplicas:int 4:availableReplicas:int "
    "5:unavailableReplicas:int 7:readyReplicas:int",
    "DeploymentSpec": "1:replicas:?int 2:selector:LabelSelector 3:template:PodTemplateSpec 4:strategy:DeploymentStrategy "
    "5:minReadySeconds:int 6:revisionHistoryLimit:?int 7:paused:bool 9:progressDeadlineSeconds:?int",
    "DeploymentStrategy": "1:type:string 2:rollingUpdate:RollingUpdateDeployment",
    "RollingUpdateDeployment": "1:maxUnavailable:IntOrString 2:maxSurge:IntOrString",
    "PodTemplateSpec": "1:metadata:ObjectMeta 2:spec:PodSpec",
    "PodSpec": "2:containers:[]Container 3:restartPolicy:string 4:terminationGracePeriodSeconds:?int "
    "5:activeDeadlineSeconds:?int 6:dnsPolicy:string 7:nodeSelector:{}string 8:serviceAccountName:string "
    "9:serviceAccount:string 10:nodeName:string 11:hostNetwork:bool 12:hostPID:bool 13:hostIPC:bool "
    "15:imagePullSecrets:[]LocalObjectReference 16:hostname:string 17:subdomain:string 19:schedulerName:string "
    "20:initContainers:[]Container",
    "Container": "1:name:string 2:image:string 3:command:[]string 4:args:[]string 5:workingDir:string "
    "6:ports:[]ContainerPort 7:env:[]EnvVar 8:resources:ResourceRequirements 13:terminationMessagePath:string "
    "14:imagePullPolicy:string 16:stdin:bool 17:stdinOnce:bool 18:tty:bool 20:terminationMessagePolicy:string",
    "ContainerPort": "1:name:string 2:hostPort:int 3:containerPort:int 4:protocol:string 5:hostIP:string",
    "EnvVar": "1:name:string 2:value:string",
    "ResourceRequirements": "1:limits:{}Quantity 2:requests:{}Quantity",
    "Quantity": "1:string:string",
    "TokenRequest": "1:metadata:ObjectMeta 2:spec:TokenRequestSpec 3:status:TokenRequestStatus",
    "TokenRequestSpec": "1:audiences:[]string 3:boundObjectRef:BoundObjectReference 4:expirationSeconds:?int",
    "TokenRequestStatus": "1:token:string 2:expirationTimestamp:Time",
    "BoundObjectReference": "1:kind:string 2:apiVersion:string 3:name:string 4:uid:string",
    "TokenReview": "1:metadata:ObjectMeta 2:spec:TokenReviewSpec 3:status:TokenReviewStatus",
    "TokenReviewSpec": "1:token:string 2:audiences:[]string",
    "TokenReviewStatus": "1:authenticated:bool 2:user:UserInfo 3:error:string",
    "UserInfo": "1:username:string 2:uid:string 3:groups:[]string",
    "SelfSubjectReview": "1:metadata:ObjectMeta 2:status:SelfSubjectReviewStatus",
    "SelfSubjectReviewStatus": "1:userInfo:UserInfo",
    "SelfSubjectAccessReview": "1:metadata:ObjectMeta 2:spec:SelfSubjectAccessReviewSpec 3:status:SubjectAccessReviewStatus",
    "SelfSubjectAccessReviewSpec": "1:resourceAttributes:ResourceAttributes 2:nonResourceAttributes:NonResourceAttributes",
    "SubjectAccessReviewStatus": "1:allowed:bool 2:reason:string 3:evaluationError:string 4:denied:bool",
    "ResourceAttributes": "1:namespace:string 2:verb:string 3:group:string 4:version:string 5:resource:string "
    "6:subresource:string 7:name:string",
    "NonResourceAttributes": "1:path:string 2:verb:string",
    "SelfSubjectRulesReview": "1:metadata:ObjectMeta 2:spec:SelfSubjectRulesReviewSpec 3:status:SubjectRulesReviewStatus",
    "SelfSubjectRulesReviewSpec": "1:namespace:string",
    "SubjectRulesReviewStatus": "3:incomplete:bool 4:evaluationError:string",
}

_KINDS = frozenset(
    {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DeleteOptions",
        "Deployment",
        "Namespace",
        "Role",
        "RoleBinding",
        "Secret",
        "SelfSubjectAccessReview",
        "SelfSubjectReview",
        "SelfSubjectRulesReview",
        "Service",
        "ServiceAccount",
        "TokenRequest",
        "TokenReview",
    }
)


def _table(text: str) -> dict[int, tuple[str, str]]:
    fields = (entry.split(":") for entry in text.split())
    return {int(number): (name, kind) for number, name, kind in fields}


_FIELDS: Mapping[str, dict[int, tuple[str, str]]] = {name: _table(text) for name, text in _MESSAGES.items()}


def decode(content: bytes) -> dict[str, Any]:
    """The object as its JSON form would decode. Raises ProtobufError."""
    if not content.startswith(_MAGIC):
        raise ProtobufError("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    envelope = dict(_wire(content[len(_MAGIC) :]))
    type_meta, raw = envelope.get(1, b""), envelope.get(2, b"")
    if not isinstance(type_meta, bytes) or not isinstance(raw, bytes):
        raise ProtobufError("malformed envelope")
    named = {number: _text(value) for number, value in _wire(type_meta)}
    api_version, kind = named.get(1, ""), named.get(2, "")
    if kind not in _KINDS:
        raise ProtobufError(f"objects of kind {kind!r} can be read as JSON or YAML only: use `kubectl apply -f`")
    return {"apiVersion": api_version, "kind": kind} | _message(kind, raw)


def _message(name: str, content: bytes) -> dict[str, Any]:
    fields = _FIELDS[name]
    found: dict[str, Any] = {}
    for number, value in _wire(content):
        if number not in fields:
            if value in (b"", 0):
                continue  # Go writes unset fields too
            raise ProtobufError(f"field {number} of {name} can be read as JSON or YAML only: use `kubectl apply -f`")
        field, kind = fields[number]
        if kind.startswith("[]"):
            found.setdefault(field, []).append(_value(kind[2:], value))
        elif kind.startswith("{}"):
            entry = dict(_wire(_bytes(value)))
            zero: bytes = b""
            found.setdefault(field, {})[_text(entry.get(1, zero))] = _value(kind[2:], entry.get(2, zero))
        elif kind.startswith("?"):
            found[field] = _value(kind[1:], value)
        else:
            decoded = _value(kind, value)
            if decoded not in ("", 0, False, None) and decoded != {}:
                found[field] = decoded
    return found


def _value(kind: str, value: int | bytes) -> Any:
    match kind:
        case "string":
            return _text(value)
        case "bytes":
            return base64.b64encode(_bytes(value)).decode()
        case "int":
            number = _int(value)
            return number - 2**64 if number >= 2**63 else number  # negative numbers are two's complement
        case "bool":
            return _int(value) != 0
        case "Quantity":
            return _message(kind, _bytes(value)).get("string", "0")
        case "IntOrString":
            parts = _message(kind, _bytes(value))
            return parts.get("strVal", "") if parts.get("type") == 1 else parts.get("intVal", 0)
        case "Time":
            return None  # set by the server in everything that clients send here
    return _message(kind, _bytes(value))


def _text(value: int | bytes) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError:
        raise ProtobufError("a string is not UTF-8") from None


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ProtobufError("a field has the wrong wire type")
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ProtobufError("a field has the wrong wire type")
    return value


# The wire format: https://protobuf.dev/programming-guides/encoding/


def _wire(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of each field: numbers for varints, bytes for everything else."""
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _varint(content, position)
            yield number, value
            continue
        if wire_type == 2:
            length, position = _varint(content, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ProtobufError(f"unknown wire type {wire_type}")
        if position + length > len(content):
            raise ProtobufError("unexpected end of data")
        yield number, content[position : position + length]
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), position
    raise ProtobufError("unexpected end of data")


def encode_fields(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A message of these (number, value) fields: varints for integers, bytes for the rest."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [_encode_varint(number << 3), _encode_varint(value)]
        else:
            raw = value.encode() if isinstance(value, str) else value
            parts += [_encode_varint(number << 3 | 2), _encode_varint(len(raw)), raw]
    return b"".join(parts)


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
