-- States of the cluster that are wrong and have not been put right since.
--
-- A state ends with the event that takes it back; what has no such event (a death, a failed probe)
-- ends when it has not come again for a minute.
with ends as (
    select * from (values
        ('endpoints.empty', 'endpoints.ready', false),
        ('pod.not_ready', 'pod.ready', false),
        ('container.waiting', 'pod.ready', false),
        ('pod.unschedulable', 'pod.ready', false),
        ('node.not_ready', 'node.ready', false),
        ('deployment.unavailable', 'deployment.available', false),
        ('deployment.replica_failure', 'deployment.available', false),
        ('pod.failed', 'pod.deleted', false),
        ('container.terminated', 'pod.deleted', true),
        ('probe.failed', 'pod.deleted', true)
    ) as t(kind, ended_by, fades)
),
open as (
    select e.type as kind, e.entity_kind, e.entity_namespace, e.entity_name,
           e.workload_kind, e.workload_name, e.time, e.reason, e.message, e.value, s.fades
    from events e
    join ends s on s.kind = e.type
    cross join params
    where e.time >= params.lookback and e.severity <> 'info'
      and not exists (
          select 1 from events r
          where r.entity_kind = e.entity_kind and r.entity_namespace = e.entity_namespace
            and r.entity_name = e.entity_name and r.time >= e.time
            and ((r.type = s.ended_by and r.id > e.id) or r.type = 'pod.deleted'))
)
select o.kind, o.entity_kind, o.entity_namespace, o.entity_name,
       max(o.workload_kind) as workload_kind, max(o.workload_name) as workload_name,
       min(o.time) as onset, max(o.time) as last, count(*) as times,
       last_value(o.reason order by o.time) as reason,
       last_value(o.message order by o.time) as message
from open o cross join params
group by o.kind, o.entity_kind, o.entity_namespace, o.entity_name, o.fades, params.now
having not o.fades or max(o.time) >= params.now - interval '60 seconds'
order by onset, o.kind, o.entity_kind, o.entity_namespace, o.entity_name
