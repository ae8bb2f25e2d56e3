-- Containers whose memory grows into their limit, or whose CPU stands at it.
--
-- Memory began to grow with the first measurement above its floor, not where the window that shows the
-- growth begins.
with measured as (
    select l.*, row_number() over (partition by l.namespace, l.pod, l.container, l.resource order by l.time desc) as back
    from levels l
),
floors as (
    -- where each container's memory stood before it grew; ten minutes are all that is kept
    select m.namespace, m.pod, m.container, min(m.value) + 0.05 * min(m.ceiling) as floor
    from measured m
    where m.resource = 'memory' and m.ceiling > 0.0
    group by m.namespace, m.pod, m.container
),
rests as (
    select m.namespace, m.pod, m.container, max(m.time) as rested
    from measured m
    join floors f on f.namespace = m.namespace and f.pod = m.pod and f.container = m.container
    where m.resource = 'memory' and m.value <= f.floor
    group by m.namespace, m.pod, m.container
),
memory as (
    select 'memory_growth' as kind, m.workload_kind, m.namespace, m.workload_name, m.container,
           min(case when m.time > r.rested then m.time end) as first_time, max(m.time) as last,
           last_value(m.value order by m.time) as value, min(m.value) as baseline, min(m.ceiling) as bound
    from measured m
    join rests r on r.namespace = m.namespace and r.pod = m.pod and r.container = m.container
    cross join params
    where m.resource = 'memory' and m.ceiling > 0.0
    group by m.workload_kind, m.namespace, m.workload_name, m.pod, m.container, params.now
    having last_value(m.value order by m.time) >= 0.75 * min(m.ceiling)
       and last_value(m.value order by m.time)
           - min(case when m.time >= params.now - interval '180 seconds' then m.value end) >= 0.25 * min(m.ceiling)
       and max(m.time) >= params.now - interval '180 seconds'
),
cpu as (
    select 'cpu_at_limit' as kind, m.workload_kind, m.namespace, m.workload_name, m.container,
           min(m.time) as first_time, max(m.time) as last,
           avg(m.value) as value, 0.0 as baseline, min(m.ceiling) as bound
    from measured m cross join params
    where m.resource = 'cpu' and m.ceiling > 0.0 and m.back <= 2 and m.time >= params.now - interval '60 seconds'
    group by m.workload_kind, m.namespace, m.workload_name, m.pod, m.container
    having count(*) = 2 and avg(m.value) >= 0.85 * min(m.ceiling)
)
select * from memory union all select * from cpu
order by kind, namespace, workload_name, container
