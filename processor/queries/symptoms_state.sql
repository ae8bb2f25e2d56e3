-- States of the cluster that are wrong and have not been put right since.
--
-- A state that holds ends with the fact that takes it back, after hours or days; a death or a failed
-- probe has no such fact, and fades when it has not come again for a minute.
with fading as (
    select e.type as kind, e.entity_kind, e.entity_namespace, e.entity_name,
           e.workload_kind, e.workload_name, e.time, e.reason, e.message
    from events e
    cross join params
    where e.time >= params.lookback and e.severity <> 'info'
      and e.type in ('container.terminated', 'probe.failed')
      and not exists (
          select 1 from events r
          where r.entity_kind = e.entity_kind and r.entity_namespace = e.entity_namespace
            and r.entity_name = e.entity_name and r.time >= e.time and r.type = 'pod.deleted')
)
select s.kind, s.entity_kind, s.entity_namespace, s.entity_name, s.workload_kind, s.workload_name,
       s.onset, s.last, s.times, s.reason, s.message
from states s
union all
select f.kind, f.entity_kind, f.entity_namespace, f.entity_name,
       max(f.workload_kind) as workload_kind, max(f.workload_name) as workload_name,
       min(f.time) as onset, max(f.time) as last, count(*) as times,
       last_value(f.reason order by f.time) as reason,
       last_value(f.message order by f.time) as message
from fading f cross join params
group by f.kind, f.entity_kind, f.entity_namespace, f.entity_name, params.now
having max(f.time) >= params.now - interval '60 seconds'
order by onset, kind, entity_kind, entity_namespace, entity_name
