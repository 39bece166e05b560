using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>The device answered with an error; it is still there.</summary>
public sealed class DeviceRefusedException(string operation, Errno errno, Exception? inner = null)
    : IOException($"The device refused {operation}: {errno}", inner)
{
    /// <summary>What was asked.</summary>
    public string Operation { get; } = operation;

    /// <summary>Its answer.</summary>
    public Errno Errno { get; } = errno;
}

/// <summary>The device has gone: its process ended, did not answer in time, broke the protocol, or was cut off.</summary>
public sealed class DeviceLostException(string message, Exception? inner = null) : IOException(message, inner);
