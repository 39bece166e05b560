using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>
/// What a command or descriptor changes of what devices see, to be worked off in steps: what devices are not to have any more is withdrawn;
/// then all that see something else are switched in one memory transaction, which finds nothing mapped; then what devices are to have now is
/// announced. It may rest between any two steps: what was announced is what devices have, always. Under the command lock.
/// </summary>
internal sealed class ChangePlan(IntelIommu unit)
{
    /// <summary>What a memory transaction counts as, in units of work: it builds views and tells listeners.</summary>
    internal const int SwitchUnits = 1024;

    private readonly List<Comparison> _before = [];
    private readonly List<IntelDevice> _switching = [];
    private readonly List<Comparison> _after = [];
    private int _next;
    private bool _begun;
    private SyncRange _range;

    internal bool IsDone => _switching.Count == 0 && _next == _before.Count + _after.Count;

    /// <summary>All that <paramref name="device"/> has is compared before the switch.</summary>
    internal void Withdraw(IntelDevice device) => _before.Add(new Comparison(device, default, unit.LastIova));

    /// <summary><paramref name="device"/> is shown what it is to see then.</summary>
    internal void Switch(IntelDevice device) => _switching.Add(device);

    /// <summary>A range of <paramref name="device"/> is compared after the switch.</summary>
    internal void Compare(IntelDevice device, Iova first, Iova last) => _after.Add(new Comparison(device, first, last));

    /// <summary>Makes one step and returns the units of work that it cost.</summary>
    internal long Advance()
    {
        if (_next >= _before.Count && _switching.Count != 0)
        {
            unit.Switch(_switching);
            _switching.Clear();
            return SwitchUnits;
        }

        Comparison comparison = _next < _before.Count ? _before[_next] : _after[_next - _before.Count];
        IntelDmaRegion region = comparison.Device.Region;
        unit.EnterSegment();
        if (!_begun)
        {
            _range = region.BeginSync(comparison.First, comparison.Last);
            _begun = true;
        }

        bool complete = region.SyncStep(ref _range, out long units);
        if (complete)
        {
            _next++;
            _begun = false;
        }
        else
        {
            unit.EndSegment();
        }

        return units;
    }

    /// <summary>Forgets what is done, or all of it.</summary>
    internal void Clear()
    {
        _before.Clear();
        _switching.Clear();
        _after.Clear();
        _next = 0;
        _begun = false;
    }

    private readonly record struct Comparison(IntelDevice Device, Iova First, Iova Last);
}
