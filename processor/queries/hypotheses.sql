-- Causes for what fails: every change or bad state that can reach a workload under suspicion, each
-- pattern that explains it, and how much of what the pattern asks for was seen.
--
-- Confidence = the pattern's prior
--   + evidence   how much of what the pattern asks for was seen
--   + nearness   how soon after the cause the first effect came, on the pattern's own scale
--   - rivals     other changes upstream of the same workload in the same span of time
-- Without a pattern (mechanism) never more than 0.6, and below 0.4 while the failure is young: every
-- rollout has its seconds of refused connections.
with local as (
    -- every fact on the workload itself, on what it owns, and on the Service in front of it
    select r.workload_kind, r.workload_namespace, r.workload_name,
           f.kind, f.reason, f.text, f.time, f.lasted_s
    from (select distinct workload_kind, workload_namespace, workload_name, service from reach) r
    join (
        select e.type as kind, e.reason, e.message as text, e.time, 0.0 as lasted_s,
               e.entity_kind, e.entity_namespace, e.entity_name, e.workload_kind, e.workload_name
        from events e cross join params
        where e.time >= params.lookback and (e.severity <> 'info' or e.type = 'log.new')
        union all
        select s.kind, '' as reason, s.detail as text, s.onset as time,
               (cast(s.last as bigint) - cast(s.onset as bigint)) / 1000000000.0 as lasted_s,
               s.entity_kind, s.entity_namespace, s.entity_name, '' as workload_kind, '' as workload_name
        from symptoms s
        where s.kind in ('error_ratio', 'latency', 'call_errors', 'memory_growth', 'cpu_at_limit')
    ) f on f.entity_namespace = r.workload_namespace
       and ((f.workload_kind = r.workload_kind and f.workload_name = r.workload_name)
         or (f.entity_kind = r.workload_kind and f.entity_name = r.workload_name)
         or (f.entity_kind = 'Service' and f.entity_name = r.service))
),
causes as (
    select r.*, 'change' as source, c.verb, c.path as path, c.change, c.time
    from reach r
    join changes c on c.entity_kind = r.cause_kind and c.entity_namespace = r.cause_namespace
                  and c.entity_name = r.cause_name
    cross join params
    where c.time >= params.lookback
    union all
    select r.*, 'state' as source, e.type as verb, concat(e.reason, ' ', e.message) as path,
           cast(-1 as bigint) as change, e.time
    from reach r
    join events e on e.entity_kind = r.cause_kind and e.entity_namespace = r.cause_namespace
                 and e.entity_name = r.cause_name
    cross join params
    where e.time >= params.lookback and e.severity <> 'info' and r.relation <> 'self'
    union all
    select r.*, 'none' as source, '' as verb, '' as path, cast(-1 as bigint) as change, min(l.time) as time
    from reach r
    join local l on l.workload_kind = r.workload_kind and l.workload_namespace = r.workload_namespace
                and l.workload_name = r.workload_name
    where r.relation = 'self'
    group by r.cause_kind, r.cause_namespace, r.cause_name, r.relation,
             r.workload_kind, r.workload_namespace, r.workload_name, r.service
),
matched as (
    select c.cause_kind, c.cause_namespace, c.cause_name, c.relation,
           c.workload_kind, c.workload_namespace, c.workload_name, c.service,
           c.source, c.change, p.pattern, p.prior, p.within_s, min(c.time) as cause_time
    from causes c
    join patterns p on p.source = c.source
    where regexp_like(c.verb, p.verb) and regexp_like(c.cause_kind, p.kind)
      and regexp_like(c.path, p.path) and regexp_like(c.relation, p.relation)
    group by c.cause_kind, c.cause_namespace, c.cause_name, c.relation,
             c.workload_kind, c.workload_namespace, c.workload_name, c.service,
             c.source, c.change, p.pattern, p.prior, p.within_s
),
seen as (
    select m.cause_kind, m.cause_namespace, m.cause_name, m.relation,
           m.workload_kind, m.workload_namespace, m.workload_name, m.service,
           m.source, m.change, m.pattern, m.prior, m.within_s, m.cause_time,
           n.need, n.required, n.forbidden, n.weight,
           min(l.time) as first_time, count(l.time) as times
    from matched m
    join pattern_needs n on n.pattern = m.pattern
    left join local l
      on l.workload_kind = m.workload_kind and l.workload_namespace = m.workload_namespace
     and l.workload_name = m.workload_name
     and regexp_like(l.kind, n.kind) and regexp_like(l.reason, n.reason) and regexp_like(l.text, n.text)
     and l.time >= m.cause_time - interval '2 seconds'
     and cast(l.time as bigint) <= cast(m.cause_time as bigint) + cast(m.within_s * 1000000000.0 as bigint)
    group by m.cause_kind, m.cause_namespace, m.cause_name, m.relation,
             m.workload_kind, m.workload_namespace, m.workload_name, m.service,
             m.source, m.change, m.pattern, m.prior, m.within_s, m.cause_time,
             n.need, n.required, n.forbidden, n.weight
),
explained as (
    select s.cause_kind, s.cause_namespace, s.cause_name, s.relation,
           s.workload_kind, s.workload_namespace, s.workload_name, s.service,
           s.source, s.change, s.pattern, s.prior, s.within_s, s.cause_time,
           min(case when s.forbidden then null else s.first_time end) as effect_time,
           sum(case when s.times > 0 and not s.forbidden then s.weight else 0.0 end)
             / sum(case when s.forbidden then 0.0 else s.weight end) as evidence
    from seen s
    group by s.cause_kind, s.cause_namespace, s.cause_name, s.relation,
             s.workload_kind, s.workload_namespace, s.workload_name, s.service,
             s.source, s.change, s.pattern, s.prior, s.within_s, s.cause_time
    having bool_and(not s.required or s.times > 0) and bool_and(not s.forbidden or s.times = 0)
),
bare as (
    -- a change upstream of what fails, which no pattern explains
    select c.cause_kind, c.cause_namespace, c.cause_name, c.relation,
           c.workload_kind, c.workload_namespace, c.workload_name, c.service,
           c.source, c.change, '' as pattern,
           case when max(l.lasted_s) >= 30.0 then 0.4 else 0.2 end as prior, 600.0 as within_s,
           min(c.time) as cause_time, min(l.time) as effect_time, 0.0 as evidence
    from causes c
    join local l on l.workload_kind = c.workload_kind and l.workload_namespace = c.workload_namespace
                and l.workload_name = c.workload_name and l.time >= c.time
                and l.kind in ('error_ratio', 'latency', 'call_errors', 'endpoints.empty')
    where c.source = 'change'
    group by c.cause_kind, c.cause_namespace, c.cause_name, c.relation,
             c.workload_kind, c.workload_namespace, c.workload_name, c.service, c.source, c.change
),
together as (
    select * from explained where effect_time is not null
    union all
    select * from bare
),
rivals as (
    select t.workload_kind, t.workload_namespace, t.workload_name,
           count(distinct t.change) as changes
    from together t
    where t.source = 'change'
    group by t.workload_kind, t.workload_namespace, t.workload_name
),
lagged as (
    select t.*, (cast(t.effect_time as bigint) - cast(t.cause_time as bigint)) / 1000000000.0 as lag_s,
           coalesce(r.changes, 0) as changes
    from together t
    left join rivals r on r.workload_kind = t.workload_kind and r.workload_namespace = t.workload_namespace
                      and r.workload_name = t.workload_name
)
select l.*,
       case when l.pattern = ''
            then least(0.6, l.prior + 0.2 * exp(-abs(l.lag_s) / 60.0))
            else least(0.97, l.prior + 0.25 * l.evidence
                             + 0.10 * exp(-abs(l.lag_s) / (0.5 * l.within_s))
                             - 0.05 * least(greatest(l.changes - 1, 0), 3))
       end as confidence
from lagged l
order by confidence desc, l.cause_time desc, l.cause_kind, l.cause_namespace, l.cause_name,
         l.pattern, l.workload_namespace, l.workload_name
