"""Cluster IPs and node ports of Services: handed out from one range each, remembered in the Services themselves."""

import ipaddress
from collections.abc import Iterator

from local.kube import causes, errors
from local.kube.resources import Resource
from local.kube.store import Object, Store

# The default of kubeadm. Nothing routes these addresses here: clients only expect that a Service has one.
SERVICE_RANGE = ipaddress.IPv4Network("10.96.0.0/12")
# kube-apiserver --service-node-port-range
NODE_PORTS = range(30000, 32768)


class ServiceAddresses:
    """Assigns `spec.clusterIP` and keeps two Services from having the same one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = self._candidates()

    def _candidates(self) -> Iterator[str]:
        while True:
            for host in SERVICE_RANGE.hosts():
                yield str(host)

    def _used(self) -> set[str]:
        return {
            stored.object["spec"].get("clusterIP", "")
            for stored in self._store.items("services")
            if "spec" in stored.object
        }

    def assign(self, resource: Resource, obj: Object, old: Object | None) -> None:
        """Fill in or check the addresses of a Service that is about to be written. Raises ApiError 422."""
        spec = obj["spec"]
        if spec.get("type") == "ExternalName":
            for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(key, None)
            return
        before = (old or {}).get("spec", {}).get("clusterIP", "")
        asked = spec.get("clusterIP", "")
        if before and asked not in ("", before):
            raise self._refused(resource, obj, asked, "may not change once set")
        if not asked:
            asked = before or self._free()
        elif asked != "None" and asked != before:
            self._check(resource, obj, asked)
        spec["clusterIP"] = asked
        spec["clusterIPs"] = [asked]
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            self._assign_ports(resource, obj, old)

    def _assign_ports(self, resource: Resource, obj: Object, old: Object | None) -> None:
        kept = {(port["port"], port.get("protocol")): port.get("nodePort") for port in _ports(old or {})}
        own = set(kept.values())
        taken = {
            port.get("nodePort") for stored in self._store.items("services") for port in _ports(stored.object)
        } - own
        for index, port in enumerate(_ports(obj)):
            asked = port.get("nodePort") or kept.get((port["port"], port.get("protocol")))
            if not asked:
                asked = next((number for number in NODE_PORTS if number not in taken), 0)
            elif asked in taken or asked not in NODE_PORTS:
                why = (
                    "provided port is already allocated"
                    if asked in taken
                    else "provided port is not in the valid range"
                )
                field = f"spec.ports[{index}].nodePort"
                problem = causes.invalid(field, asked, why)
                raise errors.invalid(resource, obj["metadata"].get("name", ""), [problem])
            port["nodePort"] = asked
            taken.add(asked)

    def _free(self) -> str:
        used = self._used()
        return next(address for address in self._next if address not in used)

    def _check(self, resource: Resource, obj: Object, asked: str) -> None:
        try:
            address = ipaddress.ip_address(asked)
        except ValueError:
            raise self._refused(
                resource, obj, asked, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            ) from None
        if address not in SERVICE_RANGE:
            why = f"failed to allocate IP {asked}: the provided IP is not in the valid range"
            raise self._refused(resource, obj, asked, f"{why}. The range of valid IPs is {SERVICE_RANGE}")
        if asked in self._used():
            raise self._refused(
                resource, obj, asked, f"failed to allocate IP {asked}: provided IP is already allocated"
            )

    @staticmethod
    def _refused(resource: Resource, obj: Object, asked: str, why: str) -> errors.ApiError:
        name = obj["metadata"].get("name", "")
        return errors.invalid(resource, name, [causes.invalid("spec.clusterIPs", [asked], why)])


def _ports(service: Object) -> list[Object]:
    found: list[Object] = service.get("spec", {}).get("ports") or []
    return found
