using Godwit.Migration;

namespace Godwit.Vfio;

/// <content>Migration of the device's state, and of what it writes.</content>
public sealed partial class VfioPciFunction
{
    /// <inheritdoc/>
    public event Action<IMigratableDevice>? StateChanged;

    /// <inheritdoc/>
    public string StateName => MigrationArcs.Name(_states.State);

    /// <inheritdoc/>
    public ulong? PendingBytes
    {
        get
        {
            if (_leavesState)
                return 0;
            try
            {
                return _device.GetStopCopySize();
            }
            catch (IOException e) when (e is DeviceRefusedException or DeviceLostException)
            {
                return null;
            }
        }
    }

    /// <summary>
    /// Machine stopped (QMP <c>stop</c>) or going on: device to STOP, and back. In pre-copy it goes to STOP_COPY, so that a migration may go
    /// on while the machine is stopped. A device without migration cannot be stopped and runs on; a lost one is left alone.
    /// </summary>
    /// <exception cref="MigrationPhaseException">The device did not; it is where the text says.</exception>
    /// <exception cref="InvalidOperationException">It cannot go on because it has been stopped for a migration.</exception>
    public void SetRunning(bool running)
    {
        try
        {
            _states.SetRunning(running);
        }
        catch (DeviceLostException)
        {
            // Lost says so; the rest of the machine stops and goes on without it.
        }

        if (!running)
            _interrupts?.Drain();
    }

    /// <inheritdoc/>
    /// <exception cref="MigrationPhaseException">The device did not; it is back in what it was before, or where the text says.</exception>
    public DeviceRehearsal? Rehearse() => _states.Rehearse(TimeProvider.System);

    /// <inheritdoc/>
    /// <exception cref="MigrationPhaseException">The device did not; it is back in what it was before, or where the text says.</exception>
    public void BeginSave() => _states.BeginSave();

    /// <inheritdoc/>
    public int ReadState(Span<byte> buffer) => _states.Read(buffer);

    /// <inheritdoc/>
    public void Quiesce() => _states.Quiesce();

    /// <inheritdoc/>
    public void StopAndCopy()
    {
        _states.StopAndCopy();
        // The device signals no more; what it has signalled must be in the state of the machine that is saved after this.
        _interrupts?.Drain();
    }

    /// <inheritdoc/>
    public void EndSave() => _states.EndSave();

    /// <inheritdoc/>
    public void Recover() => _states.Recover();

    /// <inheritdoc/>
    public void BeginLoad() => _states.BeginLoad();

    /// <inheritdoc/>
    public void WriteState(ReadOnlySpan<byte> chunk) => _states.Write(chunk);

    /// <inheritdoc/>
    /// <exception cref="IOException">
    /// It did not take a mapping that the guest has: the guest would find out by a DMA that fails, when it is too late to stay where it was.
    /// </exception>
    /// <exception cref="MigrationPhaseException">The device did not take its state.</exception>
    public void EndLoad()
    {
        _shadow.RequireAllInstalled();
        _states.EndLoad();
    }

    /// <inheritdoc/>
    public void Start(StartPhase phase)
    {
        if (phase == StartPhase.PeerToPeer)
            _states.StartPeers();
        else
            _states.StartAll();
    }
}
