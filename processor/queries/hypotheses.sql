-- Causes for what fails: every change or bad state that can reach a workload under suspicion, each
-- pattern that explains it, and how much of what the pattern asks for was seen.
--
-- A cause must be able to do it: what a container reads only at its start acts from the next start on.
-- An effect must fit in time: it comes after the cause, was not there just before it, and lasts until
-- the workload fails.
--
-- The weights (w_...) are those of weights.yaml, in the one row of params.
--
-- Confidence = the pattern's prior
--   + evidence   how much of what the pattern asks for was seen
--   + nearness   how soon after the cause the first effect came, on the pattern's own scale
--   - rivals     other changes upstream of the same workload in the half hour before the effect; they
--                weigh double against "nothing was changed"
-- A pattern that says that nothing was changed is below its prior where something acted in the two
-- minutes before the effect.
-- Without a pattern (mechanism) never more than w_bare_most, and not worth a story while the failure is
-- young: every rollout has its seconds of refused connections.
with facts as (
    -- what was said of an object, and until when it held: a state that is open now holds now
    select case when e.type = 'container.started' and e.count > 1 then 'container.restarted' else e.type end as kind,
           e.reason, e.message as text, e.time,
           case when s.kind is null then e.time else params.now end as last,
           case when s.kind is null then 0.0
                else (cast(params.now as bigint) - cast(e.time as bigint)) / 1000000000.0 end as lasted_s,
           e.entity_kind, e.entity_namespace, e.entity_name, e.workload_kind, e.workload_name
    from events e
    cross join params
    left join (
        select distinct s.kind, s.entity_kind, s.entity_namespace, s.entity_name from symptoms s
    ) s on s.kind = e.type and s.entity_kind = e.entity_kind
       and s.entity_namespace = e.entity_namespace and s.entity_name = e.entity_name
    where e.time >= params.lookback
      and (e.severity <> 'info' or e.type in ('log.new', 'container.started'))
    union all
    select s.kind, '' as reason, s.detail as text, s.onset as time, s.last,
           (cast(s.last as bigint) - cast(s.onset as bigint)) / 1000000000.0 as lasted_s,
           s.entity_kind, s.entity_namespace, s.entity_name, '' as workload_kind, '' as workload_name
    from symptoms s
    where s.kind in ('error_ratio', 'latency', 'own_time', 'call_errors', 'log_errors', 'memory_growth', 'cpu_at_limit',
                     'silence')
),
local as (
    -- every fact on the workload itself, on what it owns, and on the services that it runs as
    select distinct r.workload_kind, r.workload_namespace, r.workload_name,
           f.kind, f.reason, f.text, f.time, f.last, f.lasted_s
    from fronts r
    join facts f
      on f.entity_namespace = r.workload_namespace
       and ((f.workload_kind = r.workload_kind and f.workload_name = r.workload_name)
         or (f.entity_kind = r.workload_kind and f.entity_name = r.workload_name)
         or (f.entity_kind = 'Service' and f.entity_name = r.service))
    union all
    -- what is wrong with a service that it calls, if from its own first failing request on: later it may
    -- be what the workload cuts short
    select r.workload_kind, r.workload_namespace, r.workload_name,
           concat('callee.', s.kind) as kind, '' as reason, s.detail as text, s.onset as time, s.last,
           0.0 as lasted_s
    from reach r
    join symptoms s on s.entity_kind = r.cause_kind and s.entity_namespace = r.cause_namespace
                   and s.entity_name = r.cause_name
    left join symptoms w on w.entity_kind = 'Service' and w.entity_namespace = r.workload_namespace
                        and w.entity_name = r.service and w.kind in ('error_ratio', 'latency', 'log_errors')
    where r.relation = 'calls' and s.kind in ('error_ratio', 'latency', 'call_errors', 'log_errors')
    group by r.workload_kind, r.workload_namespace, r.workload_name, s.kind, s.detail, s.onset, s.last
    -- since when it is slow is known some windows less well than since when it fails
    having min(w.onset) is null
        or s.onset <= min(case when w.kind = 'latency' then w.onset + interval '15 seconds' else w.onset end)
                      + interval '1 second'
),
onsets as (
    -- since when the workload fails those who ask it
    select l.workload_kind, l.workload_namespace, l.workload_name, min(l.time) as onset
    from local l
    where l.kind in ('error_ratio', 'latency', 'call_errors', 'log_errors')
    group by l.workload_kind, l.workload_namespace, l.workload_name
),
written as (
    -- what somebody changed; labels and annotations of what runs tell the program nothing, an autoscaler
    -- that follows the load causes none, and a field that was written again before it failed is as it was
    -- written last
    select r.*, c.verb, c.path, c.becomes, c.change, c.time,
           -- the same in other words, more room, or one more who is let in: nobody loses anything; who asks
           -- for more may find no node
           c.becomes = 'same'
             or (c.becomes = 'more' and regexp_like(c.path, '\.resources\.limits\.|^spec\.hard\.'))
             or (c.becomes = 'more' and c.entity_kind = 'NetworkPolicy') as gives
    from reach r
    join changes c on c.entity_kind = r.cause_kind and c.entity_namespace = r.cause_namespace
                  and c.entity_name = r.cause_name
    cross join params
    left join onsets o on o.workload_kind = r.workload_kind and o.workload_namespace = r.workload_namespace
                      and o.workload_name = r.workload_name
    left join changes n on n.entity_kind = c.entity_kind and n.entity_namespace = c.entity_namespace
                       and n.entity_name = c.entity_name and n.path = c.path
                       and n.time > c.time and n.time < o.onset
                       and not regexp_like(r.relation, '_at_start$')
    where n.change is null and c.time >= params.lookback and r.relation not in ('owns', 'calls')
      and not (regexp_like(c.path, '^metadata\.(labels|annotations)')
               and regexp_like(c.entity_kind, '^(Deployment|StatefulSet|DaemonSet|ReplicaSet|Job|CronJob|ConfigMap|Secret)$'))
      and not (c.path = 'spec.replicas' and c.actor = 'kube-controller-manager')
),
started as (
    -- the first start after a change that is read only then; one that follows a death is no news, or each
    -- death would convict what was changed before it
    select w.cause_kind, w.cause_namespace, w.cause_name, w.relation,
           w.workload_kind, w.workload_namespace, w.workload_name, w.service,
           w.verb, w.path, w.becomes, w.gives, w.change, w.time, min(l.time) as start
    from written w
    left join local l
      on l.workload_kind = w.workload_kind and l.workload_namespace = w.workload_namespace
     and l.workload_name = w.workload_name and l.time >= w.time
     and l.kind in ('container.started', 'container.waiting', 'deployment.replica_failure')
     and regexp_like(w.relation, '_at_start$')
    group by w.cause_kind, w.cause_namespace, w.cause_name, w.relation,
             w.workload_kind, w.workload_namespace, w.workload_name, w.service,
             w.verb, w.path, w.becomes, w.gives, w.change, w.time
),
acting as (
    -- when a change began to act: at once, or with the first start after it where it is read only then
    select s.cause_kind, s.cause_namespace, s.cause_name, s.relation,
           s.workload_kind, s.workload_namespace, s.workload_name, s.service,
           s.verb, s.path, s.becomes, s.gives, s.change, s.time, coalesce(s.start, s.time) as acts
    from started s
    where s.start is not null or not regexp_like(s.relation, '_at_start$')
),
causes as (
    select a.*, 'change' as source, a.change as occasion from acting a
    union all
    -- what was not started anew before it failed goes on with what it read before
    select s.cause_kind, s.cause_namespace, s.cause_name,
           regexp_replace(s.relation, '^uses_(.*)_at_start$', 'keeps_\1') as relation,
           s.workload_kind, s.workload_namespace, s.workload_name, s.service,
           s.verb, s.path, s.becomes, s.gives, s.change, s.time, s.time as acts,
           'change' as source, s.change as occasion
    from started s
    left join onsets o on o.workload_kind = s.workload_kind and o.workload_namespace = s.workload_namespace
                      and o.workload_name = s.workload_name
    where regexp_like(s.relation, '^uses_.*_at_start$') and (s.start is null or s.start > o.onset)
    union all
    select r.cause_kind, r.cause_namespace, r.cause_name, r.relation,
           r.workload_kind, r.workload_namespace, r.workload_name, r.service,
           e.type as verb, concat(e.reason, ' ', e.message) as path, '' as becomes, false as gives,
           cast(-1 as bigint) as change, e.time, e.time as acts, 'state' as source, e.id as occasion
    from reach r
    join events e on e.entity_kind = r.cause_kind and e.entity_namespace = r.cause_namespace
                 and e.entity_name = r.cause_name
    cross join params
    where e.time >= params.lookback and e.severity <> 'info' and r.relation not in ('self', 'owns', 'calls')
),
matched as (
    select c.cause_kind, c.cause_namespace, c.cause_name, c.relation,
           c.workload_kind, c.workload_namespace, c.workload_name, c.service,
           c.source, c.change, p.pattern,
           -- whether a value went the way that is asked for cannot always be told
           max(case when p.becomes = '' or c.becomes <> '' or c.verb <> 'modified' then p.prior
                    else p.prior - params.w_direction end) as prior,
           p.within_s, min(c.time) as cause_time, min(c.acts) as acts
    from causes c
    cross join params
    join patterns p on p.source = c.source and p.likely
    where regexp_like(c.verb, p.verb) and regexp_like(c.cause_kind, p.kind)
      and regexp_like(c.path, p.path) and regexp_like(c.relation, p.relation)
      and (p.becomes = '' or c.becomes = '' or c.becomes = p.becomes)
    group by c.cause_kind, c.cause_namespace, c.cause_name, c.relation,
             c.workload_kind, c.workload_namespace, c.workload_name, c.service,
             c.source, c.change, c.occasion, p.pattern, p.within_s
    union all
    -- where nothing was changed the first thing that the pattern asks for is where it began
    select r.cause_kind, r.cause_namespace, r.cause_name, r.relation,
           r.workload_kind, r.workload_namespace, r.workload_name, r.service,
           'none' as source, cast(-1 as bigint) as change, p.pattern, p.prior, p.within_s,
           min(l.time) as cause_time, min(l.time) as acts
    from reach r
    join patterns p on p.source = 'none' and p.likely
    join pattern_needs n on n.pattern = p.pattern and not n.forbidden
    join local l on l.workload_kind = r.workload_kind and l.workload_namespace = r.workload_namespace
                and l.workload_name = r.workload_name
                and regexp_like(l.kind, n.kind) and regexp_like(l.reason, n.reason) and regexp_like(l.text, n.text)
    where r.relation = 'self'
    group by r.cause_kind, r.cause_namespace, r.cause_name, r.relation,
             r.workload_kind, r.workload_namespace, r.workload_name, r.service,
             p.pattern, p.prior, p.within_s
),
spans as (
    -- the same with its times as numbers (ns): the two seconds are those of a field manager's clock
    select m.*, cast(m.acts as bigint) - 2000000000 as opens,
           cast(m.acts as bigint) + cast(m.within_s * 1000000000.0 as bigint) as closes,
           cast(m.acts as bigint) - cast(m.within_s * 1000000000.0 as bigint) as before,
           coalesce(cast(o.onset as bigint), 0) - 60000000000 as fresh
    from matched m
    left join onsets o on o.workload_kind = m.workload_kind and o.workload_namespace = m.workload_namespace
                      and o.workload_name = m.workload_name
),
seen as (
    -- for each need: the first time after the cause, the newest, how often just before it and around it
    select m.cause_kind, m.cause_namespace, m.cause_name, m.relation,
           m.workload_kind, m.workload_namespace, m.workload_name, m.service,
           m.source, m.change, m.pattern, m.prior, m.within_s, m.cause_time, m.acts, m.closes, m.fresh,
           n.need, n.required, n.forbidden, n.weight,
           n.forbidden and n.kind <> '' and regexp_like('latency', n.kind) as told_late,
           n.required and n.kind <> '' and regexp_like('endpoints.empty', n.kind) as by_restart,
           min(case when cast(l.time as bigint) >= m.opens then l.time end) as first_time,
           max(case when cast(l.last as bigint) >= m.opens then cast(l.last as bigint) end) as newest,
           sum(case when cast(l.time as bigint) < m.opens and cast(l.last as bigint) >= m.before
                    then 1 else 0 end) as earlier,
           sum(case when cast(l.last as bigint) >= m.opens and cast(l.time as bigint) <= m.closes
                    then 1 else 0 end) as around
    from spans m
    join pattern_needs n on n.pattern = m.pattern
    left join local l
      on l.workload_kind = m.workload_kind and l.workload_namespace = m.workload_namespace
     and l.workload_name = m.workload_name
     and regexp_like(l.kind, n.kind) and regexp_like(l.reason, n.reason) and regexp_like(l.text, n.text)
     -- a line said for the first time much later may be one that is said every day
     and (l.kind <> 'log.new' or cast(l.time as bigint) <= cast(m.acts as bigint) + 120000000000)
    group by m.cause_kind, m.cause_namespace, m.cause_name, m.relation,
             m.workload_kind, m.workload_namespace, m.workload_name, m.service,
             m.source, m.change, m.pattern, m.prior, m.within_s, m.cause_time, m.acts, m.closes, m.fresh,
             n.need, n.required, n.forbidden, n.weight, n.kind
),
weighed as (
    select s.*, params.now,
           coalesce(cast(s.first_time as bigint) <= s.closes, false) as met,
           coalesce(s.newest >= s.fresh, false) as lasts
    from seen s
    cross join params
),
explained as (
    select s.cause_kind, s.cause_namespace, s.cause_name, s.relation,
           s.workload_kind, s.workload_namespace, s.workload_name, s.service,
           s.source, s.change, s.pattern, s.prior, s.within_s, s.cause_time, s.acts,
           min(case when s.met and not s.forbidden then s.first_time end) as effect_time,
           sum(case when s.met and not s.forbidden then s.weight else 0.0 end)
             / sum(case when s.forbidden then 0.0 else s.weight end) as evidence,
           bool_or(s.by_restart) as by_restart
    from weighed s
    group by s.cause_kind, s.cause_namespace, s.cause_name, s.relation,
             s.workload_kind, s.workload_namespace, s.workload_name, s.service,
             s.source, s.change, s.pattern, s.prior, s.within_s, s.cause_time, s.acts
    having bool_and(not s.required or (s.met and s.lasts and s.earlier = 0))
       and bool_and(not s.forbidden or s.around = 0)
       -- that nothing became slow is known some windows later than that requests fail
       and (not bool_or(s.told_late)
            or min(case when s.met and s.required then s.first_time end) <= max(s.now) - interval '20 seconds')
),
passed as (
    -- what fails may only pass on that what it calls fails
    select distinct l.workload_kind, l.workload_namespace, l.workload_name, true as passes
    from local l
    where l.kind in ('callee.error_ratio', 'callee.call_errors')
),
bare as (
    -- a change upstream of what fails, which no pattern explains, or a node, a resolver or a webhook that
    -- is out of service; a restart that somebody ordered changes nothing
    select c.cause_kind, c.cause_namespace, c.cause_name, c.relation,
           c.workload_kind, c.workload_namespace, c.workload_name, c.service,
           c.source, c.change, '' as pattern,
           (case when max(l.lasted_s) >= 30.0 then max(params.w_bare_lasting)
                 else max(params.w_bare_young) end)
             - (case when bool_or(coalesce(p.passes, false)) then max(params.w_bare_passed_on)
                     else 0.0 end) as prior, 600.0 as within_s,
           min(c.time) as cause_time, min(c.acts) as acts, min(l.time) as effect_time, 0.0 as evidence,
           false as by_restart
    from causes c
    cross join params
    join local l on l.workload_kind = c.workload_kind and l.workload_namespace = c.workload_namespace
                and l.workload_name = c.workload_name
                and l.time >= c.acts - interval '2 seconds' and l.time <= c.acts + interval '600 seconds'
    left join passed p on p.workload_kind = c.workload_kind and p.workload_namespace = c.workload_namespace
                      and p.workload_name = c.workload_name
    where case when c.source = 'change'
               then not (c.gives or regexp_like(c.path, 'restartedAt$') or regexp_like(c.relation, '^keeps_'))
               else c.relation in ('runs_on', 'resolves', 'admits')
                    and regexp_like(c.verb, '^node\.not_ready$|^endpoints\.empty$|\.unavailable$') end
      and (l.kind in ('error_ratio', 'latency', 'call_errors', 'log_errors')
           or (l.kind in ('endpoints.empty', 'container.waiting', 'pod.unschedulable',
                          'pod.not_ready', 'deployment.replica_failure') and l.last >= params.now))
    group by c.cause_kind, c.cause_namespace, c.cause_name, c.relation,
             c.workload_kind, c.workload_namespace, c.workload_name, c.service, c.source, c.change
    union all
    -- what fails those who ask it and dies or cannot start itself, though nothing explains why
    select r.cause_kind, r.cause_namespace, r.cause_name, r.relation,
           r.workload_kind, r.workload_namespace, r.workload_name, r.service,
           'none' as source, cast(-1 as bigint) as change, '' as pattern,
           max(params.w_bare_dies) as prior, 600.0 as within_s,
           min(l.time) as cause_time, min(l.time) as acts, min(l.time) as effect_time, 0.0 as evidence,
           false as by_restart
    from reach r
    cross join params
    join local l on l.workload_kind = r.workload_kind and l.workload_namespace = r.workload_namespace
                and l.workload_name = r.workload_name
    join local w on w.workload_kind = r.workload_kind and w.workload_namespace = r.workload_namespace
                and w.workload_name = r.workload_name
    where r.relation = 'self'
      and l.kind in ('container.terminated', 'container.waiting', 'pod.unschedulable', 'pod.failed',
                     'pod.evicted', 'deployment.replica_failure')
      and w.kind in ('error_ratio', 'call_errors', 'log_errors')
      and l.time >= w.time - interval '600 seconds' and l.time <= w.time + interval '10 seconds'
    group by r.cause_kind, r.cause_namespace, r.cause_name, r.relation,
             r.workload_kind, r.workload_namespace, r.workload_name, r.service
),
together as (
    select * from explained where effect_time is not null
    union all
    select * from bare
),
lagged as (
    -- rivals: changes of other objects that might as well have had the first effect; a restart
    -- changes nothing, but takes pods away
    select t.cause_kind, t.cause_namespace, t.cause_name, t.relation,
           t.workload_kind, t.workload_namespace, t.workload_name, t.service,
           t.source, t.change, t.pattern, t.prior, t.within_s, t.cause_time, t.effect_time, t.evidence,
           (cast(t.effect_time as bigint) - cast(t.acts as bigint)) / 1000000000.0 as lag_s,
           count(distinct a.change) as rivals,
           min((cast(t.effect_time as bigint) - cast(a.acts as bigint)) / 1000000000.0) as nearest_s
    from together t
    left join acting a
      on a.workload_kind = t.workload_kind and a.workload_namespace = t.workload_namespace
     and a.workload_name = t.workload_name
     and a.acts <= t.effect_time and a.acts >= t.effect_time - interval '1800 seconds'
     and not a.gives and (t.by_restart or not regexp_like(a.path, 'restartedAt$'))
     and (t.source <> 'change' or a.cause_kind <> t.cause_kind
          or a.cause_namespace <> t.cause_namespace or a.cause_name <> t.cause_name)
    group by t.cause_kind, t.cause_namespace, t.cause_name, t.relation,
             t.workload_kind, t.workload_namespace, t.workload_name, t.service,
             t.source, t.change, t.pattern, t.prior, t.within_s, t.cause_time, t.effect_time, t.evidence,
             t.acts
)
select l.*,
       case when l.pattern = ''
            then least(w.w_bare_most, l.prior + w.w_bare_nearness * exp(-abs(l.lag_s) / 60.0)
                       - (case when l.source = 'none' then w.w_bare_rival_unchanged
                               else w.w_bare_rival end) * least(l.rivals, 3))
            -- "nothing was changed" is a guess where something was, just before: less than its prior
            else least(case when l.source = 'none' and l.nearest_s <= 120.0 then l.prior - w.w_acted_unchanged
                            else w.w_most end,
                       l.prior + w.w_evidence * l.evidence
                       + w.w_nearness * exp(-abs(l.lag_s) / (0.5 * l.within_s))
                       - (case when l.source = 'none' then w.w_rival_unchanged
                               else w.w_rival end) * least(l.rivals, 3))
       end as confidence
from lagged l
cross join params w
order by confidence desc, l.cause_time desc, l.cause_kind, l.cause_namespace, l.cause_name,
         l.pattern, l.workload_namespace, l.workload_name, l.relation, l.change
