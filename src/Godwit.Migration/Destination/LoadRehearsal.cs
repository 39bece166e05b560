using System.Buffers;

namespace Godwit.Migration;

/// <summary>
/// What loading takes on this destination, known before it has to be done while the guest stands still. States that load ahead are loaded with
/// what the source sends during its rounds; of the others the machine's own, fresh state is loaded, which executes the same for the first time.
/// Devices take their own state, too, and start.
/// The fresh states also take the machine back when the migration fails.
/// </summary>
internal sealed class LoadRehearsal
{
    // Loaded so often: the first pays for what is executed for the first time.
    private const int FreshLoads = 2;

    // Devices are measured here only, and often enough that one pause of the process is in none of the figures.
    private const int DeviceTurns = 3;

    // Starting vCPUs, and each device that was not rehearsed; what cannot be measured before it happens.
    private static readonly TimeSpan StartAllowance = TimeSpan.FromMilliseconds(5);

    private readonly IMigrationHost _host;
    private readonly TimeProvider _clock;
    private readonly byte[][] _fresh;
    private readonly TimeSpan[] _times; // by state: of its latest load
    private readonly DeviceRehearsal[] _devices;
    private readonly RateEstimator _deviceRate = new();
    private long _deviceBytes; // not in the rate yet
    private TimeSpan _deviceTime;
    private bool _ahead;

    /// <summary>Loads the machine's own states. It is fresh, and stays so.</summary>
    /// <param name="host">The machine.</param>
    /// <param name="clock">Measures.</param>
    /// <param name="enter">Told what is being done, for error texts.</param>
    internal LoadRehearsal(IMigrationHost host, TimeProvider clock, Action<string> enter)
    {
        _host = host;
        _clock = clock;
        _fresh = new byte[host.States.Count][];
        _times = new TimeSpan[host.States.Count];
        var state = new ArrayBufferWriter<byte>();
        for (int i = 0; i < _fresh.Length; i++)
        {
            enter($"saving the fresh {host.States[i].Id}");
            state.ResetWrittenCount();
            host.States[i].Save(state);
            _fresh[i] = state.WrittenSpan.ToArray();
        }

        for (int turn = 0; turn < FreshLoads; turn++)
        {
            for (int i = 0; i < _fresh.Length; i++)
            {
                enter($"loading the fresh {host.States[i].Id}");
                Load(i, host.States[i].Version, _fresh[i]);
            }
        }

        _devices = new DeviceRehearsal[host.Devices.Count];
        for (int i = 0; i < _devices.Length; i++)
        {
            enter($"rehearsing the load of {host.Devices[i].Id} with its own state");
            _devices[i] = Rehearse(host.Devices[i]);
        }
    }

    private static DeviceRehearsal Rehearse(IMigratableDevice device)
    {
        DeviceRehearsal? least = null;
        for (int turn = 0; turn < DeviceTurns; turn++)
        {
            if (device.Rehearse() is not { } took)
                break; // nor would it the next time
            least = least is { } before ? new DeviceRehearsal(Least(before.EndLoad, took.EndLoad), Least(before.Start, took.Start)) : took;
        }

        return least ?? new DeviceRehearsal(TimeSpan.Zero, StartAllowance);

        static TimeSpan Least(TimeSpan a, TimeSpan b) => a < b ? a : b;
    }

    /// <summary>What it would need now.</summary>
    internal DestinationNeeds Needs => new(
        Sum(_times) + Sum(_devices.Select(device => device.EndLoad)),
        StartAllowance + Sum(_devices.Select(device => device.Start)),
        _deviceRate.IsKnown ? (ulong)_deviceRate.BytesPerSecond : 0);

    /// <summary>Loads a state ahead.</summary>
    internal void LoadAhead(int index, int version, ReadOnlySpan<byte> state)
    {
        _ahead = true;
        Load(index, version, state);
    }

    /// <summary>Gives a device a piece of its state and counts what that takes.</summary>
    internal void Write(IMigratableDevice device, ReadOnlySpan<byte> chunk)
    {
        long began = _clock.GetTimestamp();
        device.WriteState(chunk);
        _deviceTime += _clock.GetElapsedTime(began);
        _deviceBytes += chunk.Length;
        if (_deviceBytes < RateEstimator.SmallSample)
            return;
        // One that takes no time at all sets no limit.
        _deviceRate.Add(_deviceBytes, _deviceTime);
        (_deviceBytes, _deviceTime) = (0, TimeSpan.Zero);
    }

    /// <summary>After a failure: the machine without what was loaded ahead.</summary>
    internal void TakeBack()
    {
        if (!_ahead)
            return;
        for (int i = 0; i < _fresh.Length; i++)
        {
            if (_host.States[i].LoadsAhead)
                Load(i, _host.States[i].Version, _fresh[i]);
        }

        _ahead = false;
    }

    private static TimeSpan Sum(IEnumerable<TimeSpan> times) => times.Aggregate(TimeSpan.Zero, (sum, time) => sum + time);

    private void Load(int index, int version, ReadOnlySpan<byte> state)
    {
        long began = _clock.GetTimestamp();
        _host.States[index].Load(version, state);
        _times[index] = _clock.GetElapsedTime(began);
    }
}
