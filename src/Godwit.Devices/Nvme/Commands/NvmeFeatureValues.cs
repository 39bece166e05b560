namespace Godwit.Devices;

/// <summary>
/// Current values of the features (NVM Express Base 1.4, 5.21.1). Changed by the one worker that executes admin commands; the write cache
/// bit is read by all workers.
/// </summary>
internal sealed class NvmeFeatureValues
{
    /// <summary>What the health log says, in kelvin.</summary>
    public const ushort Temperature = 303;

    /// <summary>WCTEMP of Identify, in kelvin.</summary>
    public const ushort WarningTemperature = 343;

    /// <summary>CCTEMP of Identify, in kelvin.</summary>
    public const ushort CriticalTemperature = 373;

    private readonly NvmeLimits _limits;
    private volatile bool _writeCache;

    /// <summary>Default values.</summary>
    public NvmeFeatureValues(NvmeLimits limits)
    {
        _limits = limits;
        VectorCoalescingOff = new bool[limits.Vectors];
        Reset();
    }

    /// <summary>AB, LPW, MPW and HPW as written; arbitration is round robin whatever they say.</summary>
    public uint Arbitration { get; set; }

    /// <summary>TMPTH for the composite sensor, over and under.</summary>
    public ushort OverTemperature { get; set; }

    /// <inheritdoc cref="OverTemperature"/>
    public ushort UnderTemperature { get; set; }

    /// <summary>TLER.</summary>
    public ushort ErrorRecovery { get; set; }

    /// <summary>WCE. Off: every write reaches stable storage before it completes.</summary>
    public bool WriteCache
    {
        get => _writeCache;
        set => _writeCache = value;
    }

    /// <summary>I/O submission queues that may be created.</summary>
    public int SubmissionQueues { get; set; }

    /// <summary>I/O completion queues that may be created.</summary>
    public int CompletionQueues { get; set; }

    /// <summary>THR and TIME as written; completions are signalled at once, which is allowed.</summary>
    public ushort Coalescing { get; set; }

    /// <summary>CD of each vector.</summary>
    public bool[] VectorCoalescingOff { get; }

    /// <summary>DN.</summary>
    public bool WriteAtomicityOff { get; set; }

    /// <summary>Enabled events; error events cannot be disabled.</summary>
    public uint EnabledEvents { get; set; }

    /// <summary>Defaults.</summary>
    public void Reset()
    {
        Arbitration = 6;
        OverTemperature = WarningTemperature;
        UnderTemperature = 0;
        ErrorRecovery = 0;
        WriteCache = true;
        SubmissionQueues = _limits.MaxQueues;
        CompletionQueues = _limits.MaxQueues;
        Coalescing = 0;
        Array.Clear(VectorCoalescingOff);
        WriteAtomicityOff = false;
        EnabledEvents = 0;
    }

    /// <summary>Get Features (5.13).</summary>
    public NvmeStatus Get(NvmeFeature feature, uint dword11, out uint value)
    {
        value = 0;
        switch (feature)
        {
            case NvmeFeature.Arbitration:
                value = Arbitration;
                return NvmeStatus.Success;
            case NvmeFeature.PowerManagement:
                return NvmeStatus.Success;
            case NvmeFeature.TemperatureThreshold:
                if (((dword11 >> 16) & 0xF) != 0 || ((dword11 >> 20) & 3) > 1)
                    return NvmeStatus.InvalidField;
                value = ((dword11 >> 20) & 3) == 0 ? OverTemperature : UnderTemperature;
                return NvmeStatus.Success;
            case NvmeFeature.ErrorRecovery:
                value = ErrorRecovery;
                return NvmeStatus.Success;
            case NvmeFeature.VolatileWriteCache:
                value = WriteCache ? 1u : 0;
                return NvmeStatus.Success;
            case NvmeFeature.NumberOfQueues:
                value = QueueCounts;
                return NvmeStatus.Success;
            case NvmeFeature.InterruptCoalescing:
                value = Coalescing;
                return NvmeStatus.Success;
            case NvmeFeature.InterruptVectorConfiguration:
                uint vector = dword11 & 0xFFFF;
                if (vector >= VectorCoalescingOff.Length)
                    return NvmeStatus.InvalidField;
                value = vector | (VectorCoalescingOff[vector] ? 1u << 16 : 0);
                return NvmeStatus.Success;
            case NvmeFeature.WriteAtomicity:
                value = WriteAtomicityOff ? 1u : 0;
                return NvmeStatus.Success;
            case NvmeFeature.AsyncEventConfiguration:
                value = EnabledEvents;
                return NvmeStatus.Success;
            default:
                return NvmeStatus.InvalidField;
        }
    }

    /// <summary>Set Features (5.21).</summary>
    /// <param name="feature">Which.</param>
    /// <param name="dword11">Its value.</param>
    /// <param name="queuesExist">Whether I/O queues have been created.</param>
    /// <param name="result">Dword 0 of the completion.</param>
    public NvmeStatus Set(NvmeFeature feature, uint dword11, bool queuesExist, out uint result)
    {
        result = 0;
        switch (feature)
        {
            case NvmeFeature.Arbitration:
                Arbitration = dword11 & 0xFFFF_FF07;
                return NvmeStatus.Success;
            case NvmeFeature.PowerManagement:
                return (dword11 & 0x1F) == 0 ? NvmeStatus.Success : NvmeStatus.InvalidField; // one power state
            case NvmeFeature.TemperatureThreshold:
                uint sensor = (dword11 >> 16) & 0xF;
                uint kind = (dword11 >> 20) & 3;
                if (sensor is not (0 or 0xF) || kind > 1)
                    return NvmeStatus.InvalidField;
                if (kind == 0)
                    OverTemperature = (ushort)dword11;
                else
                    UnderTemperature = (ushort)dword11;
                return NvmeStatus.Success;
            case NvmeFeature.ErrorRecovery:
                if ((dword11 & (1u << 16)) != 0) // DULBE: the namespace does not offer it
                    return NvmeStatus.InvalidField;
                ErrorRecovery = (ushort)dword11;
                return NvmeStatus.Success;
            case NvmeFeature.VolatileWriteCache:
                WriteCache = (dword11 & 1) != 0;
                return NvmeStatus.Success;
            case NvmeFeature.NumberOfQueues:
                uint submissions = dword11 & 0xFFFF;
                uint completions = dword11 >> 16;
                if (submissions == 0xFFFF || completions == 0xFFFF)
                    return NvmeStatus.InvalidField;
                if (queuesExist)
                    return NvmeStatus.CommandSequenceError;
                SubmissionQueues = (int)Math.Min(submissions + 1, (uint)_limits.MaxQueues);
                CompletionQueues = (int)Math.Min(completions + 1, (uint)_limits.MaxQueues);
                result = QueueCounts;
                return NvmeStatus.Success;
            case NvmeFeature.InterruptCoalescing:
                Coalescing = (ushort)dword11;
                return NvmeStatus.Success;
            case NvmeFeature.InterruptVectorConfiguration:
                uint vector = dword11 & 0xFFFF;
                if (vector >= VectorCoalescingOff.Length)
                    return NvmeStatus.InvalidField;
                VectorCoalescingOff[vector] = (dword11 & (1u << 16)) != 0;
                return NvmeStatus.Success;
            case NvmeFeature.WriteAtomicity:
                WriteAtomicityOff = (dword11 & 1) != 0;
                return NvmeStatus.Success;
            case NvmeFeature.AsyncEventConfiguration:
                EnabledEvents = dword11;
                return NvmeStatus.Success;
            default:
                return NvmeStatus.InvalidField;
        }
    }

    private uint QueueCounts => (uint)(SubmissionQueues - 1) | ((uint)(CompletionQueues - 1) << 16);
}
