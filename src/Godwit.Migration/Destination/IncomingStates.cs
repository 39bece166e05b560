using System.Buffers;

namespace Godwit.Migration;

/// <summary>
/// States of devices and models on the destination. Device state goes to the device as it comes; the models' states are kept until all of
/// RAM is there and then loaded in order, then the devices judge theirs. Within a round come states that load ahead; they are loaded at its end.
/// </summary>
internal sealed class IncomingStates(IMigrationHost host, LoadRehearsal rehearsal, MigrationProgress progress)
{
    private readonly ulong[] _deviceBytes = new ulong[host.Devices.Count];
    private readonly string[] _deviceWork = [.. host.Devices.Select(device => $"giving {device.Id} its state")];
    private readonly bool[] _deviceBegun = new bool[host.Devices.Count];
    private readonly bool[] _deviceEnded = new bool[host.Devices.Count];
    private readonly List<(int Index, int Version, byte[] State)> _models = [];
    private readonly ArrayBufferWriter<byte> _state = new(); // grows with what arrives, not with what is announced
    private MachineStateBeginMessage? _open;
    private long _total;

    /// <summary>Something has been given to a device or, not only ahead, to a model: this machine cannot take another migration.</summary>
    internal bool Touched { get; private set; }

    /// <summary>What it is doing with a device, or null; for error texts.</summary>
    internal string? Work { get; private set; }

    /// <summary>This machine is being changed: it cannot take another migration.</summary>
    internal void Touch() => Touched = true;

    internal void TakeDeviceChunk(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        int index = DeviceChunk.Read(header, payload).Device;
        IMigratableDevice device = Device(header, index);
        if (_deviceEnded[index])
            MigrationStreamException.Throw(header, "device", (ulong)index, $"the state of {device.Id} has ended");
        ReadOnlySpan<byte> chunk = payload[DeviceChunk.Size..];
        Work = _deviceWork[index];
        BeginLoad(index);
        rehearsal.Write(device, chunk);
        Work = null;
        _deviceBytes[index] += (ulong)chunk.Length;
        progress.DeviceStateBytes += chunk.Length;
    }

    internal void EndDevice(in FrameHeader header, in DeviceEndMessage end)
    {
        IMigratableDevice device = Device(header, end.Device);
        if (_deviceEnded[end.Device])
            MigrationStreamException.Throw(header, "device", (ulong)end.Device, $"the state of {device.Id} has ended before");
        if (end.Bytes != _deviceBytes[end.Device])
            MigrationStreamException.Throw(header, "bytes", end.Bytes, $"{_deviceBytes[end.Device]} of {device.Id} have arrived");
        Work = _deviceWork[end.Device];
        BeginLoad(end.Device); // a device without any state goes the same way
        Work = null;
        _deviceEnded[end.Device] = true;
    }

    /// <summary>A state begins.</summary>
    /// <param name="header">The frame.</param>
    /// <param name="begin">What it says.</param>
    /// <param name="ahead">The guest still runs.</param>
    internal void BeginMachineState(in FrameHeader header, in MachineStateBeginMessage begin, bool ahead)
    {
        if (_open is { } open)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), $"the state of {open.Id} has not ended");
        int next = _models.Count == 0 ? 0 : _models[^1].Index + 1;
        while (ahead && next < host.States.Count && !host.States[next].LoadsAhead)
            next++;
        if (begin.Index != next || begin.Index >= host.States.Count)
        {
            string limit = next < host.States.Count
                ? $"the next state is {next}"
                : ahead ? "no further state is loaded ahead" : $"there are {host.States.Count} states";
            MigrationStreamException.Throw(header, "index", (ulong)begin.Index, limit);
        }

        if (begin.Id != host.States[begin.Index].Id)
            MigrationStreamException.Throw(header, "id", begin.Id, $"state {begin.Index} is {host.States[begin.Index].Id} here");
        _open = begin;
        _state.ResetWrittenCount();
    }

    internal void TakeMachineState(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        if (_open is not { } open)
        {
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "no state has begun");
            return;
        }

        if (_state.WrittenCount + payload.Length > StreamFormat.MaxMachineState)
        {
            MigrationStreamException.Throw(header, "bytes", (ulong)(_state.WrittenCount + payload.Length),
                $"the state of {open.Id} may have {StreamFormat.MaxMachineState}");
        }

        if (_total + payload.Length > StreamFormat.MaxMachineStates)
        {
            MigrationStreamException.Throw(header, "bytes", (ulong)(_total + payload.Length),
                $"all states together may have {StreamFormat.MaxMachineStates}");
        }

        _state.Write(payload);
        _total += payload.Length;
        progress.MachineStateBytes = _total;
    }

    internal void EndMachineState(in FrameHeader header, in MachineStateEndMessage end)
    {
        if (_open is not { } open)
        {
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "no state has begun");
            return;
        }

        if (end.Index != open.Index)
            MigrationStreamException.Throw(header, "index", (ulong)end.Index, $"the state that ends is {open.Index} ({open.Id})");
        if (end.Bytes != (ulong)_state.WrittenCount)
            MigrationStreamException.Throw(header, "bytes", end.Bytes, $"{_state.WrittenCount} of {open.Id} have arrived");
        _models.Add((open.Index, open.Version, _state.WrittenSpan.ToArray()));
        _open = null;
    }

    internal void CheckComplete(in FrameHeader header, in PrepareMessage prepare)
    {
        if (_open is { } open)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), $"the state of {open.Id} has not ended");
        if (prepare.States != _models.Count || _models.Count != host.States.Count)
            MigrationStreamException.Throw(header, "states", (ulong)prepare.States, $"{_models.Count} of {host.States.Count} have arrived");
        int missing = Array.IndexOf(_deviceEnded, false);
        if (prepare.Devices != host.Devices.Count || missing >= 0)
        {
            MigrationStreamException.Throw(header, "devices", (ulong)prepare.Devices,
                missing < 0 ? $"there are {host.Devices.Count}" : $"the state of {host.Devices[missing].Id} has not ended");
        }
    }

    /// <summary>
    /// A round of the running guest has ended: loads what has come ahead. <paramref name="enter"/> is told what is being done, for error texts.
    /// </summary>
    internal void LoadAhead(in FrameHeader header, Action<string> enter)
    {
        if (_open is { } open)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), $"the state of {open.Id} has not ended");
        foreach ((int index, int version, byte[] state) in _models)
        {
            enter($"loading {host.States[index].Id} ahead");
            rehearsal.LoadAhead(index, version, state);
        }

        _models.Clear();
        _total = 0;
    }

    /// <summary>Loads everything. <paramref name="enter"/> is told what is being done, for error texts.</summary>
    internal void Load(Action<string> enter)
    {
        Touch();
        foreach ((int index, int version, byte[] state) in _models)
        {
            enter($"loading {host.States[index].Id}");
            host.States[index].Load(version, state);
        }

        _models.Clear();
        foreach (IMigratableDevice device in host.Devices)
        {
            enter($"loading {device.Id}");
            device.EndLoad();
        }
    }

    private void BeginLoad(int index)
    {
        if (_deviceBegun[index])
            return;
        Touched = true;
        _deviceBegun[index] = true;
        host.Devices[index].BeginLoad();
    }

    private IMigratableDevice Device(in FrameHeader header, int index)
    {
        if (index >= host.Devices.Count)
            MigrationStreamException.Throw(header, "device", (ulong)index, $"this machine has {host.Devices.Count}");
        return host.Devices[index];
    }
}
